"""Directories of the vendor's exporter, generated from its schema: every attribute type, parts, forks, damage."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.neptune.export_layout import sanitized
from outgrow.adapters.neptune.export_rows import BATCH
from outgrow.demo import neptune_export as made
from outgrow.errors import Corrupt, LocationError, OutgrowError
from outgrow.locations import open_source
from outgrow.model import Run, Status


def runs_of(source) -> dict[str, Run]:
    return {run.id: run for e in source.experiments() for run in source.runs(e)}


def rows(batches) -> list[dict]:
    return [row for batch in batches for row in batch.to_pylist()]


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("rows_per_part", [None, 3])
def test_every_attribute_type(tmp_path: Path, rows_per_part: int | None) -> None:
    parts = made.complete_run(tmp_path).write(rows_per_part=rows_per_part)
    assert (len(parts) > 5) is (rows_per_part is not None)
    before = snapshot(tmp_path)
    with open_source(f"neptune:{tmp_path}") as source:
        (run,) = runs_of(source).values()
        assert run.id == "ws/vision/azure-fox"
        assert run.name == "resnet"
        assert run.status is Status.FINISHED
        assert run.user == "ada"
        assert run.labels == ["baseline", "v2"]
        assert run.group == "ablation"
        assert run.started_at == made.START
        assert run.ended_at == made.START + timedelta(seconds=3600.5)
        assert run.params == {
            "params/lr": 1e-5,
            "params/epochs": 2**40,
            "params/amp": True,
            "params/optimizer": "adamw",
            "params/deadline": made.START + timedelta(days=1, milliseconds=1),
            "params/layers": ["attention", "conv"],
        }
        assert run.extra["neptune"]["custom_run_id"] == "azure-fox"
        points = rows(source.points(run))
        assert [(p["key"], p["step"]) for p in points if p["key"] == "train/fine"] == [
            ("train/fine", 0.1),
            ("train/fine", 0.25),
            ("train/fine", 1.333333),
        ]
        loss = [p["value"] for p in points if p["key"] == "train/loss"]
        assert loss[:2] == [1.5, 0.5]
        assert math.isnan(loss[2])
        assert loss[3] == math.inf
        assert {p["key"] for p in points} == {"train/loss", "train/fine", "system/0a1b2c3d/cpu"}
        assert run.summary["train/fine"] == 3.0
        texts = rows(source.texts(run))
        assert [(t["key"], t["step"], t["text"]) for t in texts] == [
            ("notes", 0.0, "hello"),
            ("notes", 0.5, "wörld\n"),
            ("console/stdout", 0.0, "line 1"),
        ]
        (histogram,) = rows(source.histograms(run))
        assert (histogram["edges"], histogram["counts"]) == ([0.0, 1.0, 2.0], [3.0, 4.0])
        files = {f.path: source.open(run, f).read() for f in source.files(run)}
        assert files == {
            "model/weights.bin": b"\x00\x01weights",
            "pred/0.png": b"png0",
            "pred/1.5.png": b"png1",
        }
        stats = source.stats(run)
        assert (stats.points, stats.series, stats.texts, stats.histograms, stats.files) == (9, 3, 3, 1, 3)
        assert (stats.fractional_steps, stats.nonfinite, stats.longest_series) == (3, 2, 4)
        assert not list(source.problems())
    assert snapshot(tmp_path) == before


def test_whole_steps_stay_integers(tmp_path: Path) -> None:
    run = made.RunExport(tmp_path, "ws/p", "r")
    run.series("m", [-2, 0, 999_999_999_999], [1.0, 2.0, 3.0])
    run.write()
    with open_source(f"neptune:{tmp_path}") as source:
        (found,) = runs_of(source).values()
        (batch,) = source.points(found)
        assert str(batch.schema.field("step").type) == "int64"
        assert batch.column("step").to_pylist() == [-2, 0, 999_999_999_999]


def test_second_generation_files(tmp_path: Path) -> None:
    """2.x: bare file names, zipped file sets, tracked artifacts, NaN params (null, as pandas wrote them)."""
    run = made.RunExport(tmp_path, "ws/old", "OLD-1")
    run.sys(id="OLD-1", name="old", creation_time=made.START, state="Active", failed=True, tags=["a"])
    run.row("lr", "float", None)
    base = "ws/old/OLD-1"
    run.file("model", b"weights", f"{base}/model")
    run.file_set("source", {"a/b.py": b"print()", "c.txt": b""}, f"{base}/source")
    run.file("charts", b"p0", f"{base}/charts/0.png", "file_series", 0.0)
    entry = {
        "filePath": "train.csv", "fileHash": "ab" * 20, "type": "S3", "size": 10,
        "metadata": [{"key": "location", "value": "s3://bucket/train.csv"}],
    }  # fmt: skip
    run.artifact("dataset", [entry], f"{base}/dataset")
    run.write()
    with open_source(f"neptune:{tmp_path}") as source:
        (found,) = runs_of(source).values()
        assert math.isnan(found.params["lr"])
        assert found.status is Status.FAILED
        files = {f.path: f for f in source.files(found)}
        assert set(files) == {"model", "source/a/b.py", "source/c.txt", "charts/0.png", "dataset/train.csv"}
        assert files["dataset/train.csv"].reference == "s3://bucket/train.csv"
        assert source.open(found, files["source/a/b.py"]).read() == b"print()"
        assert source.open(found, files["source/c.txt"]).read() == b""


def forked(root: Path) -> None:
    for name, parent, step, steps in (
        ("root", None, None, [0, 1, 2, 3]),
        ("child", "root", 1.0, [2, 3]),
        ("leaf", "child", 2.0, [3, 4]),
    ):
        run = made.RunExport(root, "ws/p", name)
        run.sys(custom_run_id=name, id=name.upper(), creation_time=made.START)
        if parent is not None:
            run.row("sys/forking/parent", "string", parent)
            run.row("sys/forking/step", "float", step)
        run.flush()
        run.series("m", steps, [float(s) + len(name) * 100 for s in steps])
        run.row("log", "string_series", name, steps[0], made.START)
        run.write()


def test_forks_have_their_own_points(tmp_path: Path) -> None:
    forked(tmp_path)
    with open_source(f"neptune:{tmp_path}") as source:
        runs = runs_of(source)
        assert runs["ws/p/leaf"].fork.run == "ws/p/child"
        assert runs["ws/p/leaf"].fork.step == 2.0
        assert [p["step"] for p in rows(source.points(runs["ws/p/leaf"]))] == [3, 4]


def test_forks_complete(tmp_path: Path) -> None:
    forked(tmp_path)
    with open_source(f"neptune:{tmp_path}?outgrow.forks=complete") as source:
        runs = runs_of(source)
        leaf = rows(source.points(runs["ws/p/leaf"]))
        assert [p["step"] for p in leaf] == [0, 1, 2, 3, 4]
        assert [p["value"] for p in leaf] == [400.0, 401.0, 502.0, 403.0, 404.0]
        assert [t["text"] for t in rows(source.texts(runs["ws/p/leaf"]))] == ["root", "child", "leaf"]
        assert runs["ws/p/leaf"].fork is None
        assert runs["ws/p/leaf"].extra["neptune"]["forking/parent"] == "child"


def test_registry(tmp_path: Path) -> None:
    model = made.RunExport(tmp_path, "ws/p", "P-MOD", "models")
    model.sys(id="P-MOD", name="forest", creation_time=made.START, description="trees")
    model.row("signature", "string", "x -> y")
    model.write()
    for number, stage in (("2", "production"), ("10", "none")):
        version = made.RunExport(tmp_path, "ws/p", f"P-MOD-{number}", "model_versions")
        version.sys(id=f"P-MOD-{number}", model_id="P-MOD", creation_time=made.START, stage=stage)
        version.row("accuracy", "float", 0.5)
        version.flush()
        version.series("validation/loss", [0, 1], [1.0, 0.5])
        version.file("binary", b"w" + number.encode(), f"model_versions/P-MOD-{number}/binary")
        version.write()
    with open_source(f"neptune:{tmp_path}") as source:
        (found,) = source.registry()
        assert (found.name, found.description) == ("P-MOD", "trees")
        assert found.extra["neptune"]["name"] == "forest"
        assert [(v.version, v.stage) for v in found.versions] == [("2", "production"), ("10", None)]
        assert found.versions[0].tags == {"accuracy": "0.5"}
        runs = runs_of(source)
        run = runs[found.versions[0].run]
        assert run.job_type == "model_version"
        assert len(rows(source.points(run))) == 2
        (artifact,) = source.artifacts(run)
        assert artifact.id == found.versions[0].artifact
        (file,) = source.artifact_files(artifact)
        assert source.open(run, file).read() == b"w2"
        assert not list(source.files(run))


def test_problems_are_told(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    good = made.complete_run(exports)
    good.file("a/b", b"1", "azure-fox/a_b.txt")
    good.file("a.b", b"2", "azure-fox/a_b.txt")  # two attributes, one file
    good.row("lost", "file", {"path": "azure-fox/lost.bin"})
    good.row("failed", "file", None)
    good.row("odd", "file", {"path": "../../etc/passwd"})
    parts = good.write(rows_per_part=5)
    parts[2].unlink()
    child = made.RunExport(exports, "ws/vision", "child")
    child.row(
        "d", "histogram_series", {"type": "DENSITY", "edges": [0.0, 1.0], "values": [0.5]}, 1, made.START
    )
    child.row("sys/forking/parent", "string", "nowhere")
    child.row("sys/forking/step", "float", 3.0)
    child.write()
    (exports / "data" / sanitized("ws/vision") / f"{sanitized('half')}_part_0.parquet.tmp").write_bytes(
        b"PAR1"
    )
    line = {"project_id": "ws/vision", "run_id": "azure-fox", "attribute_path": "x", "attribute_type": None}
    (tmp_path / "neptune_exporter_errors.jsonl").write_text(
        "".join(json.dumps(line | {"exception": "NeptuneError"}) + "\n" for _ in range(3)) + "{cut\n"
    )
    with open_source(f"neptune:{exports}") as source:
        told = "\n".join(source.problems())
        assert runs_of(source)["ws/vision/child"].extra["neptune"]["histogram_densities"] == ["d"]
    for words in (
        "part 2 of", "unfinished", "a/b and a.b were exported to one file", "lost is missing",
        "file of failed was not exported", "could reach outside", "fork parent ws/vision/nowhere",
        "failed to export 3 attributes (NeptuneError), such as x", "1 lines are unreadable",
    ):  # fmt: skip
        assert words in told, words


@pytest.mark.parametrize("part", [0, 1])
def test_a_damaged_part_fails_its_run_only(tmp_path: Path, part: int) -> None:
    bad = made.complete_run(tmp_path, run="bad").write(rows_per_part=10)
    made.complete_run(tmp_path, run="good").write()
    bad[part].write_bytes(bad[part].read_bytes()[:-20])
    with open_source(f"neptune:{tmp_path}") as source:
        runs = runs_of(source)
        good = next(run for run in runs.values() if run.id == "ws/vision/good")
        broken = next(run for run in runs.values() if run is not good)
        assert rows(source.points(good))
        with pytest.raises(Corrupt, match="part_"):
            rows(source.points(broken))
        assert any("cannot be read" in sentence for sentence in source.problems())


def test_not_a_neptune_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(LocationError, match="no Neptune data"):
        open_source(f"neptune:{tmp_path}")
    with pytest.raises(LocationError, match="no folder"):
        open_source(f"neptune:{tmp_path}/nowhere")
    with pytest.raises(OutgrowError, match="neither own nor complete"):
        open_source(f"neptune:{tmp_path}?outgrow.forks=all")


def test_data_folder_alone(tmp_path: Path) -> None:
    export = made.complete_run(tmp_path)
    export.row("source_code/commit/commit_id", "string", "c0ffee")
    export.row("source_code/dirty", "bool", True)
    export.row("source_code/remote/origin", "string", "https://example.org/x.git")
    export.write()
    with open_source(f"neptune:{tmp_path}/data") as source:
        (run,) = runs_of(source).values()
        assert (run.code.commit, run.code.dirty) == ("c0ffee", True)
        assert run.code.repository == "https://example.org/x.git"
        assert len(list(source.files(run))) == 3


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Two million points in one part: no batch holds more than the reader's own number of rows."""
    run = made.RunExport(tmp_path, "ws/p", "big")
    run.bulk([f"m{n}" for n in range(20)], 100_000)
    run.write()
    run.batches.clear()
    before = pa.total_allocated_bytes()
    with open_source(f"neptune:{tmp_path}") as source:
        (found,) = runs_of(source).values()
        seen, highest = Fingerprint(), 0
        for batch in source.points(found):
            assert batch.num_rows <= BATCH
            highest = max(highest, pa.total_allocated_bytes())
            seen.add(batch)
        assert seen.count == 2_000_000
        assert highest - before < 100e6
