"""Every file of an archive, missing, cut and changed: an error that names it, never wrong data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from outgrow.adapters.archive.manifest import FOLDER, ROOT_FILE
from outgrow.errors import Corrupt, LocationError, OutgrowError, SchemaVersionError
from outgrow.locations import open_sink, open_source
from outgrow.testing import hostile, records
from outgrow.testing.compare import read_all
from outgrow.testing.drive import write
from outgrow.testing.memory import MemorySource


def everything() -> MemorySource:
    source = records.history(2)
    (data, *_) = source.by_run.values()
    data.files.append(records.file("big.bin", bytes(range(256)) * 200))
    traces = hostile.load("traces")
    source.all_traces, source.datasets = traces.all_traces, traces.datasets
    return source


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "archive"
    source = everything()
    for part in ("first", "second"):
        if part == "second":
            source.by_run["run00003"] = records.history(3).by_run["run00003"]
            source.by_run["run00003"].run = records.run(3)
        with open_sink(f"archive:{folder}") as sink:
            write(source, sink)
            for trace in source.all_traces:
                sink.trace(trace, records_origin())
            for dataset in source.datasets:
                sink.evaluation_dataset(dataset)
    return folder


def records_origin():  # type: ignore[no-untyped-def]
    from outgrow.model import Origin

    return Origin(platform="memory", run_id="trace")


def read_everything(folder: Path) -> None:
    with open_source(f"archive:{folder}") as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                read_all(source, run)
                for artifact in source.artifacts(run):
                    for file in source.artifact_files(artifact):
                        with source.open(run, file) as stream:
                            stream.read()
            list(source.traces(experiment))
        list(source.registry())
        list(source.evaluation_datasets())
        for problem in source.verify():  # type: ignore[attr-defined]
            raise Corrupt(problem)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(data[: len(data) * 2 // 3])
        case "changed":
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :])


def test_intact(intact: Path) -> None:
    read_everything(intact)
    tables = {path.parent.name for path in files_of(intact)}
    assert tables >= {"points", "texts", "histograms", "runs", "params", "metrics", "tags", "run_files"}
    assert tables >= {"artifacts", "artifact_files", "small_files", "models", "model_versions", "traces"}


@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_every_file(how: str, intact: Path, tmp_path: Path) -> None:
    for number, original in enumerate(files_of(intact)):
        name = original.relative_to(intact)
        if how == "missing" and name.parts[0] == FOLDER and original == files_of(intact / FOLDER)[-1]:
            continue  # the newest manifest: without it, its segment was never written
        copy = tmp_path / str(number)
        shutil.copytree(intact, copy)
        damaged(copy / name, how)
        with pytest.raises(OutgrowError) as caught:
            read_everything(copy)
        if name.name == ROOT_FILE and how == "missing":
            assert isinstance(caught.value, LocationError)
        else:
            assert isinstance(caught.value, Corrupt), name
            assert name.name in caught.value.message, caught.value.message
        shutil.rmtree(copy)


@pytest.mark.parametrize("which", ["root", "manifest"])
def test_newer_format_is_refused(which: str, intact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(intact, folder)
    path = folder / ROOT_FILE if which == "root" else files_of(folder / FOLDER)[0]
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"version": 99}))
    for use in (open_source, lambda location: list(open_sink(location).copies())):
        with pytest.raises(SchemaVersionError, match="99") as caught:
            use(f"archive:{folder}")
        assert caught.value.hint == "pip install --upgrade outgrow"


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("missing", "other", "file"):
        with pytest.raises(LocationError, match="is not an archive"):
            open_source(f"archive:{tmp_path / name}")
    for name in ("other", "file"):
        with pytest.raises(LocationError, match=r"not empty|is a file"):
            write(records.history(1), open_sink(f"archive:{tmp_path / name}"))
    assert files_of(tmp_path / "other") == [tmp_path / "other" / "notes.txt"]


def test_opening_a_sink_writes_nothing(tmp_path: Path) -> None:
    with open_sink(f"archive:{tmp_path / 'new'}") as sink:
        assert list(sink.copies()) == []
        assert sink.find("memory:x") is None
        sink.flush()
    assert not (tmp_path / "new").exists()


def test_wrong_digest_is_refused(tmp_path: Path) -> None:
    source = records.history(1)
    (data,) = source.by_run.values()
    file, content = data.files[0]
    data.files[0] = (file, content + b" changed on the way")
    with open_sink(f"archive:{tmp_path / 'a'}") as sink, pytest.raises(Corrupt, match=r"split\.json"):
        write(source, sink)
