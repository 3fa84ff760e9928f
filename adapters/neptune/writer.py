"""Writing one run as attributes and series, whatever takes them: a queue, a log, a server."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from ...errors import Rejected
from ...model import File, Origin, Run, Value
from .. import batches, paths
from ..base import RunWriter
from .records import (
    EXPERIMENT_PATH,
    GROUP_TAGS,
    JSON_PATH,
    MARK_PATH,
    ORIGIN_PATH,
    REFERENCES_PATH,
    TAGS_PATH,
    Attribute,
    Kind,
    Paths,
    encode_param,
    field_attributes,
    to_text,
)


class Output(ABC):
    """Where a run's operations go. Paths are Neptune's; calls come from one thread."""

    @abstractmethod
    def assign(self, path: str, attribute: Attribute) -> None: ...

    @abstractmethod
    def add_words(self, path: str, words: Sequence[str]) -> None: ...

    @abstractmethod
    def floats(self, batch: pa.RecordBatch) -> None:
        """`batches.POINTS` whose keys are paths."""

    @abstractmethod
    def strings(self, batch: pa.RecordBatch) -> None:
        """`batches.TEXTS` whose keys are paths."""

    def histograms(self, batch: pa.RecordBatch) -> None:
        raise Rejected("this form of Neptune holds no histogram series")

    @abstractmethod
    def upload(self, path: str, suffix: str, stream: BinaryIO) -> None: ...

    @abstractmethod
    def close(self, mark: str | None) -> None:
        """Everything is written; make it durable."""

    @abstractmethod
    def discard(self) -> None: ...


def native_id(origin: Origin) -> str:
    """A run id that is the same for every copy of one origin: its own id's last part, and a hash."""
    digest = hashlib.blake2b(origin.identity.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    last = re.sub(r"[^A-Za-z0-9_-]+", "-", origin.run_id.rpartition("/")[2])[:80].strip("-")
    return f"{last}-{digest}" if last else digest


def container_id(origin: Origin) -> str:
    """A 2.x container's id: a UUID made from the origin."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "outgrow:" + origin.identity))


class AttributeWriter(RunWriter):
    """`scale`: the form behind `output` is that of 3.x; `milliseconds`: its times have no more."""

    def __init__(
        self,
        output: Output,
        run: Run,
        origin: Origin,
        run_id: str,
        *,
        scale: bool,
        milliseconds: bool = False,
        url: str | None = None,
    ) -> None:
        self.output, self.run_id, self.url = output, run_id, url
        self._scale, self._milliseconds = scale, milliseconds
        self._paths = Paths(nested=not scale)
        self.output.assign(ORIGIN_PATH, Attribute("string", origin.identity))
        self.output.assign(EXPERIMENT_PATH, Attribute("string", run.experiment))
        if run.name is not None and not scale:
            self.output.assign("sys/name", Attribute("string", run.name))

    def params(self, params: Mapping[str, Value]) -> None:
        for key, value in params.items():
            attribute = encode_param(value)
            if attribute is not None and self._fits(value):
                self.output.assign(self._paths.place("params", key), attribute)
            else:
                self.output.assign(JSON_PATH + key, Attribute("string", to_text(value)))

    def _fits(self, value: Value) -> bool:
        if self._milliseconds and isinstance(value, datetime) and value.microsecond % 1_000:
            return False
        return self._scale or _plain(value)

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        for key, value in tags.items():
            if key == GROUP_TAGS and (words := _words(value)):
                self.output.add_words("sys/group_tags", words)
            else:
                self.output.assign(TAGS_PATH + key, Attribute("string", value))
        if labels:
            self.output.add_words("sys/tags", list(labels))

    def _placed(self, kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = {key: self._paths.place(kind, key) for key in batches.keys_of(batch)}
        return batches.rename(batch, {key: path for key, path in names.items() if key != path})

    def points(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self.output.floats(self._placed("metrics", batch))

    def texts(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self.output.strings(self._placed("texts", batch))

    def histograms(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self.output.histograms(self._placed("histograms", batch))

    def file(self, file: File, stream: BinaryIO | None) -> None:
        paths.checked(file.path)
        if stream is None:
            if file.reference is None:
                raise Rejected(f"{file.path} has neither bytes nor a reference")
            self.output.assign(REFERENCES_PATH + file.path, Attribute("string", file.reference))
            return
        suffix = PurePosixPath(file.path).suffix
        self.output.upload(self._paths.place("files", file.path), suffix, stream)

    def finish(self, run: Run, mark: str | None) -> None:
        if run.description is not None:
            self.output.assign("sys/description", Attribute("string", run.description))
        if run.group is not None:
            self.output.add_words("sys/group_tags", [run.group])
        for path, attribute in field_attributes(run, native_fork=self._scale).items():
            self.output.assign(path, attribute)
        if mark is not None:
            self.output.assign(MARK_PATH, Attribute("string", mark))
        self.output.close(mark)

    def abort(self) -> None:
        self.output.discard()


def _plain(value: Value) -> bool:
    """Whether the 2.x form holds it: no NaN or infinity, integers of 32 bits, times in milliseconds."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, datetime):
        return value.microsecond % 1_000 == 0
    return isinstance(value, bool) or not isinstance(value, int) or -(2**31) <= value < 2**31


def _words(text: str) -> list[str]:
    try:
        words = json.loads(text)
    except ValueError:
        return []
    good = isinstance(words, list) and len(words) > 1 and all(isinstance(word, str) for word in words)
    return words if good and words == sorted(set(words)) else []
