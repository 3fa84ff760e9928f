"""The records of a journal, and how one is framed.

A journal is a text file of lines `CRC JSON`: eight hex digits of CRC-32 over the JSON's bytes, a
blank, and a JSON array whose first element names the kind. One line is one write(2) with
O_APPEND, so that lines of several threads and processes never mix. A line whose checksum does
not match (a cut tail, a damaged disk) is skipped; its neighbours are not affected.

Times are integers in microseconds since 1970 UTC. Non-finite values are the texts `nan`, `inf`,
`-inf`, because JSON has no numbers for them. `body` fields hold `model.to_builtins` of a record.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Union

import msgspec

JOURNAL_FORMAT = 1
"""Version of the records. A reader refuses a higher one."""


class _Record(msgspec.Struct, array_like=True):
    pass


class Start(_Record, tag="start"):
    """First record; repeated by every process that takes the run up again."""

    format: int
    run: dict[str, Any]
    """`model.Run`: `id` is the journal's, `experiment` is the experiment's name."""
    to: list[str]
    """Locations, without credentials."""
    host: str
    pid: int
    time: int


class Metrics(_Record, tag="m"):
    step: int | float
    time: int
    values: dict[str, float | str]


class Text(_Record, tag="text"):
    key: str
    step: int | float
    time: int
    text: str


class Histogram(_Record, tag="hist"):
    key: str
    step: int | float
    time: int
    edges: list[float | str]
    counts: list[float | str]


class Params(_Record, tag="params"):
    body: dict[str, Any]


class Tags(_Record, tag="tags"):
    tags: dict[str, str]
    labels: list[str] = []


class Dataset(_Record, tag="dataset"):
    body: dict[str, Any]
    """`model.DatasetUse`."""


class Change(_Record, tag="run"):
    """Fields of the run that became known later (description, environment…)."""

    body: dict[str, Any]


class Stored(_Record, tag="file"):
    """One file, kept in the journal's folder under its SHA-256."""

    body: dict[str, Any]
    """`model.File`, with `size` and `sha256`."""
    kind: str | None = None
    """What it answers to in a policy: `split`, `preprocessor`…"""


class Made(_Record, tag="artifact"):
    """One artifact version."""

    body: dict[str, Any]
    """`model.Artifact`."""
    files: list[dict[str, Any]]
    role: str = "output"
    register: dict[str, Any] | None = None
    """Registered model to make it a version of: `name`, `aliases`, `tags`, `description`."""


class Finish(_Record, tag="end"):
    status: str
    time: int
    exit_code: int | None = None


Record = Union[Start, Metrics, Text, Histogram, Params, Tags, Dataset, Change, Stored, Made, Finish]

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_encode = msgspec.json.Encoder().encode


def frame(record: Record | tuple[Any, ...]) -> bytes:
    """The line of a record, newline included."""
    body = _encode(record)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def unframe(line: bytes) -> Record | None:
    """The record of a line without its newline; None where it is damaged."""
    body = line[9:]
    try:
        if line[:9] != b"%08x " % zlib.crc32(body):
            return None
        return _decoder.decode(body)
    except msgspec.DecodeError:
        return None


_FRAME = re.compile(rb"[0-9a-f]{8} \[")


def salvage(line: bytes) -> Record | None:
    """The whole record that follows a cut one on the same line, if there is one."""
    for found in _FRAME.finditer(line, 1):
        if (record := unframe(line[found.start() :])) is not None:
            return record
    return None
