"""Killed writers, several processes, a full disk: what is committed is whole, the rest is not there."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from outgrow.adapters.archive import bulk, storage
from outgrow.errors import TargetFull, Unavailable
from outgrow.locations import open_sink, open_source
from outgrow.model import Experiment, Origin
from outgrow.testing import records
from outgrow.testing.compare import compare
from outgrow.testing.drive import write
from outgrow.testing.memory import MemorySource

WRITER = """
import sys
from outgrow.locations import open_sink
from outgrow.testing import records
from outgrow.testing.drive import write
folder, platform, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
source = records.history(runs, steps=2000, platform=platform)
with open_sink("archive:" + folder) as sink:
    print("ready", flush=True)
    for run_id in list(source.by_run):
        part = records.history(runs, steps=2000, platform=platform)
        part.by_run = {run_id: source.by_run[run_id]}
        part.models = []
        write(part, sink)
        print(run_id, flush=True)
"""


def start(folder: Path, platform: str, runs: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), platform, str(runs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def whole(folder: Path, source: MemorySource) -> list[str]:
    """Ids of the source's runs in the archive, each compared with the original."""
    with open_source(f"archive:{folder}") as back, open_sink(f"archive:{folder}") as sink:
        copies = [copy for copy in sink.copies() if copy.identity.startswith(source.location.platform)]
        assert all(copy.mark for copy in copies)
        found = [copy.identity.partition(":")[2] for copy in copies]
        part = replace_runs(source, found)
        again = write(part, open_sink("archive:memory://expected"))
        assert compare(again, back, sink) == []
    return found


def replace_runs(source: MemorySource, run_ids: list[str]) -> MemorySource:
    part = records.history(len(source.by_run), steps=2000, platform=source.location.platform)
    part.by_run = {run_id: source.by_run[run_id] for run_id in run_ids}
    part.models = []
    return part


def leftovers(folder: Path) -> list[Path]:
    """Files that no manifest knows."""
    with open_source(f"archive:{folder}") as source:
        known = set(source._index.parts)  # type: ignore[attr-defined]
    tables = [path for path in folder.glob("*/*.parquet") if str(path.relative_to(folder)) not in known]
    return tables + [path for path in (folder / ".writing").rglob("*") if path.is_file()]


@pytest.mark.parametrize("after", [0, 3])
def test_killed_writer(after: int, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    source = records.history(8, steps=2000, platform="killed")
    process = start(folder, "killed", 8)
    assert process.stdout is not None
    for _ in range(after + 1):
        process.stdout.readline()
    time.sleep(0.003 * (after % 4))
    process.kill()
    process.wait()
    if (folder / "archive.json").exists():
        assert len(whole(folder, source)) >= after
    with open_sink(f"archive:{folder}") as sink:
        expected = write(source, sink)
    with open_source(f"archive:{folder}") as back:
        assert compare(expected, back, sink) == []
        assert list(back.verify()) == []  # type: ignore[attr-defined]
    assert leftovers(folder) == []


class Killed(BaseException):
    pass


def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that stops dead before its nth file is in place, for every n."""
    source = records.history(2, steps=50)
    for data in source.by_run.values():
        data.files.append(records.file("big.bin", data.run.id.encode() * 9000))
    put = storage.LocalStorage.put
    left = 0

    def mortal(self: storage.LocalStorage, name: str, local: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        put(self, name, local)

    monkeypatch.setattr(storage.LocalStorage, "put", mortal)
    steps = 0
    for steps in range(1, 200):
        folder = tmp_path / str(steps)
        left = steps
        sink = open_sink(f"archive:{folder}")
        try:
            write(source, sink)
        except Killed:
            sink._storage._held.close()  # type: ignore[attr-defined]  # the lock dies with the process
        else:
            break
        left = 0
        if (folder / "archive.json").exists():
            with open_source(f"archive:{folder}") as back:
                assert list(back.verify()) == []  # type: ignore[attr-defined]
                assert len([r for e in back.experiments() for r in back.runs(e)]) in (0, 2)
        with open_sink(f"archive:{folder}") as sink:
            expected = write(source, sink)
        with open_source(f"archive:{folder}") as back:
            assert compare(expected, back, sink) == []
        assert leftovers(folder) == []
    assert steps > 15


def test_orphans_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    """Tables that were put in place, but whose manifest was not."""
    folder = tmp_path / "archive"
    code = WRITER.replace(
        "import sys\n",
        "import sys, os, signal\nfrom outgrow.adapters.archive import sink as module\n"
        "module.dump = lambda segment: os.kill(os.getpid(), signal.SIGKILL)\n",
        1,
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder), "killed", "1"], check=False, stdout=subprocess.DEVNULL
    )
    assert list((folder / "points").glob("*.parquet"))
    with open_source(f"archive:{folder}") as source:
        assert list(source.experiments()) == []
    with open_sink(f"archive:{folder}") as sink:
        write(records.history(1), sink)
    assert leftovers(folder) == []


def test_two_processes_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    processes = [start(folder, platform, 5) for platform in ("one", "two")]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    for platform in ("one", "two"):
        source = records.history(5, steps=2000, platform=platform)
        assert sorted(whole(folder, source)) == sorted(source.by_run)
    with open_source(f"archive:{folder}") as back:
        assert list(back.verify()) == []  # type: ignore[attr-defined]


def test_a_live_writer_is_not_swept(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    sink = open_sink(f"archive:{folder}")
    experiment = sink.experiment(records.experiment())
    run = records.run(1, experiment=experiment)
    writer = sink.begin(run, Origin(platform="live", run_id="1"))
    for seed in range(3):
        writer.points(records.points(steps=bulk.SPILL_ROWS // 2, seed=seed))
    with open_sink(f"archive:{folder}") as other:
        write(records.history(1), other)
    writer.finish(run, "mark")
    sink.close()
    with open_source(f"archive:{folder}") as back:
        assert {r.id for e in back.experiments() for r in back.runs(e)} == {"live:1", "memory:run00001"}


FULL = """
import resource, signal, sys
from outgrow.errors import TargetFull
from outgrow.locations import open_sink
from outgrow.testing import records
from outgrow.testing.drive import write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = records.history(2, steps=30000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
sink = open_sink("archive:" + sys.argv[1])
try:
    write(source, sink)
except TargetFull as error:
    print("full:", error.hint)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("full:"), done.stderr
    source = records.history(2, steps=30000)
    with open_sink(f"archive:{folder}") as sink:
        expected = write(source, sink)
    with open_source(f"archive:{folder}") as back:
        assert compare(expected, back, sink) == []
    assert leftovers(folder) == []


def test_failed_flush_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = f"archive:{tmp_path / 'archive'}"
    source = records.history(2)
    put = storage.LocalStorage.put
    failures = [OSError(28, "No space left on device"), OSError(5, "Input/output error")]

    def failing(self: storage.LocalStorage, name: str, local: Path) -> None:
        if name.startswith("runs/") and failures:
            with storage.writing(self.url):
                raise failures.pop(0)
        put(self, name, local)

    monkeypatch.setattr(storage.LocalStorage, "put", failing)
    sink = open_sink(location)
    with pytest.raises(TargetFull):
        write(source, sink)
    with pytest.raises(Unavailable):
        sink.flush()
    sink.flush()
    expected = write(source, open_sink(location))
    with open_source(location) as back:
        assert compare(expected, back, sink) == []
        assert sum(1 for _ in sink.copies()) == 2
    sink.close()


def test_view_of_a_source_is_stable(tmp_path: Path) -> None:
    location = f"archive:{tmp_path / 'archive'}"
    with open_sink(location) as sink:
        write(records.history(1), sink)
        with open_source(location) as source:
            (experiment,) = source.experiments()
            write(records.history(2), sink)
            assert len(list(source.runs(experiment))) == 1
            (experiment,) = source.experiments()
            assert len(list(source.runs(experiment))) == 2


def test_equal_names_of_two_platforms_stay_apart(tmp_path: Path) -> None:
    location = f"archive:{tmp_path / 'archive'}"
    one = records.history(1, platform="mlflow")
    two = records.history(1, platform="comet")
    (experiment,) = two.by_experiment.values()
    other = replace(experiment, id="Kx9")
    two.by_experiment = {other.id: other}
    for data in two.by_run.values():
        data.run = replace(data.run, experiment=other.id)
    with open_sink(location) as sink:
        first, second = write(one, sink), write(two, sink)
        again = write(one, sink)
    assert first.runs.keys() == {"mlflow:run00001"}
    assert second.runs.keys() == {"comet:run00001"}
    assert again.models == first.models
    with open_source(location) as back:
        experiments = list(back.experiments())
        assert [e.name for e in experiments] == ["digits", "digits"]
        assert [[r.id for r in back.runs(e)] for e in experiments] == [
            ["mlflow:run00001"],
            ["comet:run00001"],
        ]
        assert compare(first, back, sink) + compare(second, back, sink) == []
        (model,) = back.registry()
        runs = {version.version: version.run for version in model.versions}
        assert list(runs.values()) == ["mlflow:run00001", "comet:run00001"]
        numbers = list(runs)
        assert numbers[0] == "1"
        assert numbers[1].startswith("1-")


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    source = records.history(4)
    for number, data in enumerate(source.by_run.values()):
        data.files += [
            records.file(f"{number}.bin", b"x" * 100_000),
            records.file("again.bin", b"x" * 100_000),
        ]
        data.files.append(records.file("small.txt", b"the same"))
    with open_sink(f"archive:{folder}") as sink:
        write(source, sink)
        write(source, sink)
    assert len(list((folder / "files").rglob("*/*"))) == 1
    with open_source(f"archive:{folder}") as back:
        small = back._index.small_files()  # type: ignore[attr-defined]
    assert len(small) == len({f.sha256 for d in source.by_run.values() for f, b in d.files if b and len(b) < 9999}
                             | {f.sha256 for a in source.by_artifact.values() for f, _ in a.files})  # fmt: skip


def test_experiment_keeps_its_first_facts(tmp_path: Path) -> None:
    location = f"archive:{tmp_path / 'archive'}"
    for description in ("first", "second"):
        with open_sink(location) as sink:
            sink.experiment(Experiment(id="1", name="x", description=description))
    with open_source(location) as source:
        assert [e.description for e in source.experiments()] == ["first"]
