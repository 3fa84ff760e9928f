"""A transaction log read as a run: its facts, its history, its console and its artifact records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from wandb.proto import wandb_internal_pb2 as pb

from ...errors import Corrupt
from . import metric_definitions
from .history import FRAME_ROWS, Frame, from_json_columns
from .layout import SIDECAR
from .records import NativeRun
from .transaction_log import LogReader

_FIELDS = pb.Record.DESCRIPTOR.fields_by_name
_HISTORY, _STATS, _OUTPUT = (_FIELDS[name].number for name in ("history", "stats", "output_raw"))
_BULK = frozenset({_HISTORY, _STATS, _OUTPUT})
_FOLDER_TIME = re.compile(r"run-(\d{8}_\d{6})-")


@dataclass(slots=True)
class RunFacts:
    """Everything of a log but its bulk."""

    native: NativeRun
    artifacts: list[pb.ArtifactRecord] = field(default_factory=list)
    saved_files: list[str] = field(default_factory=list)
    history_rows: int = 0
    stats_records: int = 0
    console_records: int = 0
    problems: list[str] = field(default_factory=list)


def kind_of(record: bytes) -> int:
    """Field number of a serialised record's content, without decoding it."""
    position = 0
    if record[:1] == b"\x08":  # `num` comes first
        position = 1
        while record[position] & 0x80:
            position += 1
        position += 1
    tag = shift = 0
    for byte in record[position : position + 3]:
        tag |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
        shift += 7
    return tag >> 3


class RunLog:
    """One `.wandb` file. It and its folder are only read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent

    def facts(self) -> RunFacts:
        """Raises `Corrupt` where the log holds no run record."""
        reader = LogReader(self.path)
        facts = RunFacts(NativeRun(id=""))
        metrics: list[pb.MetricRecord] = []
        seen_run = seen_exit = False
        for payload in reader.records():
            kind = kind_of(payload)
            if kind in _BULK:
                facts.history_rows += kind == _HISTORY
                facts.stats_records += kind == _STATS
                facts.console_records += kind == _OUTPUT
                continue
            try:
                record = pb.Record.FromString(payload)
            except DecodeError:
                facts.problems.append(f"{self.path}: a record is not what its checksum says")
                continue
            seen_run |= record.HasField("run")
            seen_exit |= record.HasField("exit")
            if record.HasField("metric"):
                metrics.append(record.metric)
            _apply(facts, record)
        facts.native.metrics = metric_definitions.of_records(metrics)
        facts.problems += reader.damage
        if not seen_run:
            raise Corrupt(f"{self.path} holds no run record", hint="leave its folder out, or restore it")
        self._complete(facts, seen_exit)
        return facts

    def _complete(self, facts: RunFacts, seen_exit: bool) -> None:
        native = facts.native
        if not seen_exit:
            native.state = "crashed"
            facts.problems.append(
                f"{self.path}: no exit record: the process ended without telling, its last rows may be missing"
            )
        if native.started_at is None and (found := _FOLDER_TIME.search(self.folder.name)):
            native.started_at = datetime.strptime(found[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
        native.created_at = native.started_at
        if self.path.stat().st_mtime and not (self.folder / SIDECAR).exists():
            native.heartbeat_at = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        requirements = self.folder / "files" / "requirements.txt"
        if requirements.is_file():
            native.packages = packages_of(requirements.read_text(encoding="utf-8", errors="replace"))
        metadata = self.folder / "files" / "wandb-metadata.json"
        if not native.metadata and metadata.is_file():
            try:
                native.metadata = json.loads(metadata.read_text(encoding="utf-8"))
            except ValueError:
                facts.problems.append(f"{metadata} is not JSON")

    def _of_kind(self, kind: int) -> Iterator[pb.Record]:
        for payload in LogReader(self.path).records():
            if kind_of(payload) == kind:
                try:
                    yield pb.Record.FromString(payload)
                except DecodeError:
                    continue  # `facts` has told of it

    def history(self) -> Iterator[Frame]:
        """The history rows, some thousands at a time."""
        columns: dict[str, tuple[list[int], list[str]]] = {}
        row = 0
        for record in self._of_kind(_HISTORY):
            _add_row(columns, row, record.history)
            row += 1
            if row == FRAME_ROWS:
                yield from_json_columns(row, columns)
                columns, row = {}, 0
        if row:
            yield from_json_columns(row, columns)

    def stats(self) -> Iterator[tuple[int, list[tuple[str, float]]]]:
        """System metrics: time in microseconds, names and values."""
        for record in self._of_kind(_STATS):
            values = []
            for item in record.stats.item:
                value = json.loads(item.value_json or "null")
                if isinstance(value, int | float):
                    values.append((item.key, float(value)))
            yield micros(record.stats.timestamp), values

    def console(self) -> Iterator[tuple[str, int, str]]:
        """Captured output: stream, time in microseconds, text as it was written."""
        for record in self._of_kind(_OUTPUT):
            output = record.output_raw
            stream = "stderr" if output.output_type == pb.OutputRawRecord.STDERR else "stdout"
            yield stream, micros(output.timestamp), output.line


def micros(time: Timestamp) -> int:
    return int(time.seconds) * 1_000_000 + int(time.nanos) // 1000


def packages_of(requirements: str) -> dict[str, str]:
    lines = (line.strip().partition("==") for line in requirements.splitlines())
    return {name: version for name, _, version in lines if name and version}


def _add_row(columns: dict[str, tuple[list[int], list[str]]], row: int, history: pb.HistoryRecord) -> None:
    step_told = False
    trees: dict[str, dict[str, Any]] = {}
    for item in history.item:
        nested = item.nested_key
        text = item.value_json or _typed(item)
        if len(nested) > 1:  # a logged mapping comes as its leaves; media are told by the whole
            at = trees.setdefault(nested[0], {})
            for part in nested[1:-1]:
                inner = at.get(part)
                if not isinstance(inner, dict):
                    inner = at[part] = {}
                at = inner
            at[nested[-1]] = json.loads(text)
            continue
        key = (nested[0] if nested else "") or item.key
        step_told = step_told or key == "_step"
        _put(columns, key, row, text)
    for key, tree in trees.items():
        _put(columns, key, row, json.dumps(tree))
    if not step_told:
        _put(columns, "_step", row, str(history.step.num))


def _put(columns: dict[str, tuple[list[int], list[str]]], key: str, row: int, text: str) -> None:
    column = columns.get(key)
    if column is None:
        column = columns[key] = ([], [])
    column[0].append(row)
    column[1].append(text)


def _typed(item: pb.HistoryItem) -> str:
    """The JSON of an item that carries a typed field instead."""
    for name in ("boolean", "integer", "number", "text", "json"):
        if item.HasField(name):
            value = getattr(item, name)
            return str(value) if name == "json" else json.dumps(value)
    return "null"


def _apply(facts: RunFacts, record: pb.Record) -> None:
    native = facts.native
    match record.WhichOneof("record_type"):
        case "run":
            _apply_run(native, record.run)
        case "config":
            _update(native.config, record.config)
        case "summary":
            _update(native.summary, record.summary)
        case "environment":
            native.metadata |= MessageToDict(record.environment)
        case "artifact":
            facts.artifacts.append(record.artifact)
        case "files":
            facts.saved_files += [item.path for item in record.files.files]
        case "exit":
            native.exit_code = record.exit.exit_code
            if record.exit.not_complete:
                native.state, native.exit_code = "running", None
            else:
                native.state = "failed" if record.exit.exit_code else "finished"
            if record.exit.runtime and not isinstance(native.summary.get("_wandb"), dict):
                native.summary["_wandb"] = {"runtime": record.exit.runtime}


def _apply_run(native: NativeRun, run: pb.RunRecord) -> None:
    """Later run records win, field by field, where they tell something (core/internal/runbranch)."""
    native.id = run.run_id or native.id
    native.entity = run.entity or native.entity
    native.project = run.project or native.project
    native.name = run.display_name or native.name
    native.group = run.run_group or native.group
    native.job_type = run.job_type or native.job_type
    native.notes = run.notes or native.notes
    native.labels = list(run.tags) or native.labels
    native.sweep = run.sweep_id or native.sweep
    native.host = run.host or native.host
    if run.HasField("start_time"):
        native.started_at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros(run.start_time))
    if run.git.remote_url or run.git.commit:
        native.metadata.setdefault("git", {"remote": run.git.remote_url, "commit": run.git.commit})
    _update(native.config, run.config)
    _update(native.summary, run.summary)


def _update(tree: dict[str, Any], record: pb.ConfigRecord | pb.SummaryRecord) -> None:
    for item in record.update:
        path = list(item.nested_key) or [item.key]
        at = tree
        for part in path[:-1]:
            inner = at.get(part)
            if not isinstance(inner, dict):
                inner = at[part] = {}
            at = inner
        at[path[-1]] = json.loads(item.value_json) if item.value_json else None
    for item in record.remove:
        at = tree
        path = list(item.nested_key) or [item.key]
        for part in path[:-1]:
            at = at.get(part, {}) if isinstance(at, dict) else {}
        if isinstance(at, dict):
            at.pop(path[-1], None)
