"""Archives that lie: refused with `Corrupt`, and nothing is written anywhere."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outgrow.adapters.comet.archives import Archive
from outgrow.adapters.comet.messages import contents
from outgrow.errors import Corrupt
from outgrow.locations import open_source

KEY = "a" * 32
META: dict[str, Any] = {
    "offline_id": KEY,
    "project_name": "digits",
    "workspace": None,
    "start_time": 1_700_000_000_000,
    "stop_time": 1_700_000_100_000,
    "tags": [],
}
METRIC = {
    "payload": {
        "local_timestamp": 1_700_000_000_500,
        "metric": {"metricName": "loss", "metricValue": 0.5, "step": 1, "epoch": None},
    },
    "type": "metric_msg",
}


def message(kind: str, **payload: Any) -> str:
    return json.dumps({"payload": payload, "type": kind})


def upload(path: str, name: str = "a.txt") -> str:
    return message(
        "file_upload",
        additional_params={"assetId": "x", "fileName": name, "context": None, "step": None},
        file_path=path,
        local_timestamp=0,
        metadata={},
        upload_type="asset",
    )


def archive(
    path: Path,
    lines: list[str] | None = None,
    members: dict[str, bytes] | None = None,
    meta: Any = META,
    *,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as target:
        target.writestr("experiment.json", meta if isinstance(meta, str) else json.dumps(meta))
        target.writestr("messages.json", "\n".join([json.dumps(METRIC), *(lines or [])]) + "\n")
        for name, data in (members or {}).items():
            target.writestr(name, data)
    return path


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def flip(path: Path) -> None:
    """Damage the compressed messages, not the directory of the zip."""
    with zipfile.ZipFile(path) as held:
        start = held.getinfo("messages.json").header_offset + 30 + len("messages.json") + 20
    data = bytearray(path.read_bytes())
    data[start : start + 8] = bytes(8)
    path.write_bytes(data)


def encrypt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(mark)
        data[place + offset] |= 1
    path.write_bytes(data)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as target, target.open("zeros", "w") as member:
        for _ in range(128):
            member.write(bytes(1 << 20))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "climbing member": lambda p: archive(p, members={"../../evil.txt": b"x"}),
    "absolute member": lambda p: archive(p, members={"/etc/evil": b"x"}),
    "backslashes": lambda p: archive(p, members={"..\\evil.txt": b"x"}),
    "message names a file outside": lambda p: archive(p, [upload("../../../etc/passwd")]),
    "message names an absolute file": lambda p: archive(p, [upload("/etc/passwd")]),
    "message names a file that is not there": lambda p: archive(p, [upload("nowhere")]),
    "truncated": lambda p: cut(archive(p)),
    "empty file": lambda p: p.write_bytes(b""),
    "not a zip": lambda p: p.write_bytes(b"PK\x03\x04 and then nothing"),
    "damaged stream": lambda p: flip(
        archive(p, [message("log_other", key=str(i), value=i) for i in range(999)])
    ),
    "encrypted": lambda p: encrypt(archive(p)),
    "bomb": lambda p: bomb(archive(p)),
    "meta is not JSON": lambda p: archive(p, meta="{"),
    "meta is a list": lambda p: archive(p, meta=[1]),
    "meta lacks its times": lambda p: archive(p, meta={"offline_id": KEY}),
    "key is a path": lambda p: archive(p, meta=META | {"offline_id": "../" * 12}),
    "key is a number": lambda p: archive(p, meta=META | {"offline_id": 7}),
    "times are text": lambda p: archive(p, meta=META | {"start_time": "yesterday"}),
    "message is not JSON": lambda p: archive(p, ["{nonsense"]),
    "message is nested without end": lambda p: archive(p, ["[" * 200_000]),
    "message has no type": lambda p: archive(p, ['{"payload": {}}']),
    "payload is a list": lambda p: archive(p, ['{"payload": [], "type": "log_other"}']),
    "param without a name": lambda p: archive(p, [message("parameter_msg", local_timestamp=0, param={})]),
    "metric without a value": lambda p: archive(
        p, ['{"payload":{"local_timestamp":0,"metric":{"metricName":"x","step":1}},"type":"metric_msg"}']
    ),
    "metric value is a list": lambda p: archive(
        p,
        [
            '{"payload":{"local_timestamp":0,"metric":'
            '{"metricName":"x","metricValue":[1],"step":1}},"type":"metric_msg"}'
        ],
    ),
    "metric value is a word": lambda p: archive(
        p,
        [
            '{"payload":{"local_timestamp":0,"metric":'
            '{"metricName":"x","metricValue":"high","step":1}},"type":"metric_msg"}'
        ],
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "zips"
    folder.mkdir()
    path = folder / f"{KEY}.zip"
    HOSTILE[case](path)
    before = sorted(tmp_path.rglob("*")), path.read_bytes()
    with pytest.raises(Corrupt) as caught, Archive(path) as held:
        contents(held)
    assert caught.value.hint
    source = open_source(f"comet:{folder}")
    assert [run for e in source.experiments() for run in source.runs(e)] == []
    [problem] = source.problems()
    assert path.name in problem
    assert (sorted(tmp_path.rglob("*")), path.read_bytes()) == before


def test_one_bad_archive_stops_no_other(tmp_path: Path) -> None:
    archive(tmp_path / f"{KEY}.zip", meta=META | {"offline_id": "b" * 32})
    cut(archive(tmp_path / f"{'c' * 32}.zip"))
    source = open_source(f"comet:{tmp_path}")
    [experiment] = source.experiments()
    [run] = source.runs(experiment)
    assert run.id == "b" * 32
    assert len(list(source.problems())) == 1


def test_duplicate_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / f"{KEY}.zip")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as target:
        target.writestr("messages.json", "")
    with pytest.raises(Corrupt, match="twice"):
        Archive(path)


def test_a_logical_path_that_climbs_out_is_left_to_the_reader(tmp_path: Path) -> None:
    """The name inside Comet is data: whoever writes it checks it (`paths.checked`)."""
    archive(tmp_path / f"{KEY}.zip", [upload("file", "../../evil.txt")], {"file": b"x"})
    source = open_source(f"comet:{tmp_path}")
    [experiment] = source.experiments()
    [run] = source.runs(experiment)
    [file] = source.files(run)
    assert file.path == "../../evil.txt"
    with source.open(run, file) as stream:
        assert stream.read() == b"x"


def test_old_and_odd_forms_are_read(tmp_path: Path) -> None:
    lines = [
        message("ws_msg", local_timestamp=0, param={"paramName": "lr", "paramValue": 0.1, "step": None}),
        message("ws_msg", local_timestamp=0, log_other={"key": "k", "val": "v"}),
        message("ws_msg", local_timestamp=0, stdout="hello\n", stderr=False),
        json.dumps(METRIC | {"type": "ws_msg"}),
        # Key order and spaces that the SDK does not write.
        '{"type": "metric_msg", "payload": {"local_timestamp": 1, "context": "train", "metric":'
        ' {"step": 2.5, "metricName": "loss", "metricValue": "Infinity", "epoch": 3}}}',
    ]
    archive(tmp_path / f"{KEY}.zip", lines, compression=zipfile.ZIP_STORED)
    source = open_source(f"comet:{tmp_path}")
    [experiment] = source.experiments()
    [run] = source.runs(experiment)
    assert run.params == {"lr": 0.1}
    assert run.tags == {"k": "v"}
    rows = [row for batch in source.points(run) for row in batch.to_pylist()]
    assert [(r["key"], r["step"], r["value"], r["epoch"], r["context"]) for r in rows] == [
        ("loss", 1.0, 0.5, None, None),
        ("loss", 1.0, 0.5, None, None),
        ("loss", 2.5, float("inf"), 3, "train"),
    ]
    assert [row["text"] for batch in source.texts(run) for row in batch.to_pylist()] == ["hello\n"]


def test_a_stream_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / f"{KEY}.zip", [upload("file")], {"file": bytes(range(256)) * 64})
    data = bytearray(path.read_bytes())
    place = data.find(b"file", data.find(b"messages.json")) + 40
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with Archive(path) as held, pytest.raises(Corrupt), held.open("file") as stream:
        io.BytesIO(stream.read())
