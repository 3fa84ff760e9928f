"""The archive: points a second written and read, many small runs, one big run, one run out of many.

    python benchmarks/archive.py [--runs 10000] [--points 10000000] [--folder DIR]

Each row is compared with the plainest thing that could do it, in the same process and folder:
`pyarrow.parquet.write_table` of the same columns in one file, and reading that file back.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from outgrow.locations import open_sink, open_source
from outgrow.model import Origin, Run
from outgrow.testing import records

KEYS = [f"train/metric_{number:02d}" for number in range(20)]
STEPS = 1_000


@contextmanager
def timed(label: str, amount: int, unit: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"{label:<52} {amount / seconds:>14,.0f} {unit}/s   {seconds:8.2f} s", flush=True)


def begin(sink, run: Run):  # type: ignore[no-untyped-def]
    experiment = sink.experiment(records.experiment())
    return sink.begin(replace(run, experiment=experiment), Origin(platform="bench", run_id=run.id))


def ordinary(folder: Path) -> None:
    """50 runs x 20 keys x 1,000 steps, 30 params, 3 files of 100 kB."""
    batches = [records.points(KEYS, STEPS, seed=number) for number in range(50)]
    amount = sum(batch.num_rows for batch in batches)
    with timed("plain write_table, one file", amount, "points"):
        pq.write_table(
            pa.Table.from_batches(batches).unify_dictionaries(), folder / "plain.parquet", compression="zstd"
        )
    with timed("plain read_table", amount, "points"):
        pq.read_table(folder / "plain.parquet")
    where = f"archive:{folder / 'ordinary'}"
    params = {f"param/{number}": number / 7 for number in range(30)}
    with timed("archive: write 50 runs, params, summary", amount, "points"), open_sink(where) as sink:
        for number, batch in enumerate(batches):
            run = records.run(number + 1, params=params)
            writer = begin(sink, run)
            writer.points(batch)
            writer.finish(run, "mark")
        sink.flush()
    with timed("archive: read every point of 50 runs", amount, "points"), open_source(where) as source:
        read = 0
        for experiment in source.experiments():
            for run in source.runs(experiment):
                read += sum(batch.num_rows for batch in source.points(run))
        assert read == amount
    data = bytes(range(256)) * 400
    with timed("archive: write 150 files of 100 kB", 150, "files"), open_sink(where) as sink:
        for number in range(50):
            run = records.run(number + 1)
            writer = begin(sink, run)
            for part in range(3):
                content = f"{number} {part} ".encode() + data
                file, _ = records.file(f"part-{part}.bin", content)
                with tempfile.TemporaryFile() as stream:
                    stream.write(content)
                    stream.seek(0)
                    writer.file(file, stream)
            writer.finish(run, "mark")
        sink.flush()


def many(folder: Path, runs: int) -> None:
    """Small runs with 20 points, 10 params, an origin record of 5 kB."""
    where = f"archive:{folder / 'many'}"
    params = {f"param/{number}": number / 7 for number in range(10)}
    origin = b'{"record": "' + b"x" * 5_000
    with timed(f"archive: write {runs:,} small runs", runs, "runs"), open_sink(where) as sink:
        for number in range(runs):
            run = records.run(number + 1, params=params)
            writer = begin(sink, run)
            writer.points(records.points(KEYS, 1, seed=number))
            content = origin + str(number).encode()
            file, _ = records.file("outgrow/origin.json", content)
            with tempfile.SpooledTemporaryFile() as stream:
                stream.write(content)
                stream.seek(0)
                writer.file(file, stream)
            writer.finish(run, "mark")
            if number % sink.capabilities.flush_runs == sink.capabilities.flush_runs - 1:
                sink.flush()
    print(f"{'files in the archive':<52} {sum(1 for p in (folder / 'many').rglob('*') if p.is_file()):>14,}")
    with timed("archive: list copies", runs, "runs"), open_sink(where) as sink:
        assert sum(1 for _ in sink.copies()) == runs
    with timed("archive: list runs, whole records", runs, "runs"), open_source(where) as source:
        listed = [run for experiment in source.experiments() for run in source.runs(experiment)]
    with timed("archive: points of 200 runs, one by one", 200, "runs"), open_source(where) as source:
        for run in listed[:: max(1, len(listed) // 200)][:200]:
            assert sum(batch.num_rows for batch in source.points(run)) == 20
    with (
        timed("archive: origin records of 1,000 runs", min(1_000, runs), "files"),
        open_source(where) as source,
    ):
        for run in listed[:1_000]:
            for file in source.files(run):
                with source.open(run, file) as stream:
                    stream.read()


def big(folder: Path, points: int) -> None:
    where = f"archive:{folder / 'big'}"
    batch = records.points(KEYS, 5_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with timed(f"archive: write one run of {points:,} points", points, "points"), open_sink(where) as sink:
        run = records.run(1)
        writer = begin(sink, run)
        for _ in range(points // batch.num_rows):
            writer.points(batch)
        writer.finish(run, "mark")
        sink.flush()
    with timed("archive: read it", points, "points"), open_source(where) as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                sum(part.num_rows for part in source.points(run))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'peak resident memory; before that':<52} {after // 1024:>14,} MB; {before // 1024:,} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        big(folder, options.points)
        ordinary(folder)
        many(folder, options.runs)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
