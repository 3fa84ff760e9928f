"""The records around the history rows: head, console, files, artifacts, tail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from google.protobuf.timestamp_pb2 import Timestamp
from wandb.proto import wandb_internal_pb2 as pb

from ...model import CONSOLE_PREFIX, Environment, Run, Status
from . import metric_definitions
from .layout import SECTION
from .records import exit_code, summary_items
from .values import config_of, shown

if TYPE_CHECKING:
    from .folder import Target

_PRODUCER = "0.31.0"
"""The SDK whose log format this is."""


def timestamp(micros: int) -> Timestamp:
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def _time(time: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(time)
    return result


def head(run: Run, target: Target, section: Mapping[str, Any], group: str | None) -> Iterator[pb.Record]:
    """Header, run, environment and metric records."""
    version = pb.VersionInfo(producer=_PRODUCER, min_consumer=_PRODUCER)
    yield pb.Record(header=pb.HeaderRecord(version_info=version))
    config, _ = config_of(run.params)
    record = pb.RunRecord(
        run_id=target.run_id,
        entity=target.entity,
        project=target.project,
        run_group=group or "",
        job_type=run.job_type or "",
        display_name=run.name or target.run_id,
        notes=run.description or "",
        tags=run.labels,
        host=(run.environment.host if run.environment else None) or "",
    )
    for key, value in {**config, SECTION: section}.items():
        record.config.update.add(key=key, value_json=json.dumps(value))
    started = run.started_at or run.created_at
    if started is not None:
        record.start_time.CopyFrom(_time(started))
    if run.code is not None:
        record.git.remote_url = run.code.repository or ""
        record.git.commit = run.code.commit or ""
    yield pb.Record(run=record)
    yield pb.Record(environment=_environment(run, started))
    own = run.extra.get("wandb")
    yield from metric_definitions.records(own.get("metrics") if isinstance(own, Mapping) else None)


def _environment(run: Run, started: datetime | None) -> pb.EnvironmentRecord:
    env = run.environment or Environment()
    record = pb.EnvironmentRecord(
        os=env.os or "",
        python=env.python or "",
        docker=env.image or "",
        args=env.command,
        host=env.host or "",
        username=run.user or "",
        gpu_type=env.gpu or "",
        cuda_version=env.cuda or "",
        writer_id="outgrow",
    )
    if env.cpu:
        record.cpu.model = env.cpu
    if env.cpu_count:
        record.cpu_count_logical = env.cpu_count
    if env.gpu_count:
        record.gpu_count = env.gpu_count
    if env.memory_bytes:
        record.memory.total = env.memory_bytes
    if run.code is not None:
        record.program = run.code.entry_point or ""
        record.git.remote_url = run.code.repository or ""
        record.git.commit = run.code.commit or ""
    if started is not None:
        record.started_at.CopyFrom(_time(started))
    return record


def console(texts: Iterable[pa.RecordBatch]) -> Iterator[pb.Record]:
    """`console/` texts as captured output; their exact form is in the run's side file."""
    for batch in texts:
        columns = (batch.column(name).to_pylist() for name in ("key", "text"))
        times = batch.column("time").cast(pa.int64()).to_pylist()
        for key, text, time in zip(*columns, times, strict=True):
            if not key.startswith(CONSOLE_PREFIX):
                continue
            record = pb.OutputRawRecord(line=text if text.endswith("\n") else text + "\n")
            record.output_type = (
                pb.OutputRawRecord.STDERR if key.endswith("stderr") else pb.OutputRawRecord.STDOUT
            )
            record.timestamp.CopyFrom(timestamp(time or 0))
            yield pb.Record(output_raw=record)


def files(paths: Iterable[str]) -> Iterator[pb.Record]:
    items = [pb.FilesItem(path=path, policy=pb.FilesItem.END) for path in paths]
    if items:
        yield pb.Record(files=pb.FilesRecord(files=items))


def artifacts(records: Iterable[pb.ArtifactRecord]) -> Iterator[pb.Record]:
    for record in records:
        yield pb.Record(artifact=record)


def tail(run: Run, last_step: int, last_time_us: int | None) -> Iterator[pb.Record]:
    """Summary and exit records. A running run's exit says that it is not complete."""
    summary = pb.SummaryRecord()
    items = summary_items(run, last_step, last_time_us)
    for key, value in items.items():
        summary.update.add(nested_key=[key], value_json=json.dumps(shown(value)))
    if items:
        yield pb.Record(summary=summary)
    record = pb.RunExitRecord(exit_code=exit_code(run) & 0x7FFFFFFF)
    inner = items.get("_wandb")
    if isinstance(inner, dict):
        record.runtime = min(int(inner["runtime"]), 2**31 - 1)
    if run.status is Status.RUNNING:
        record.exit_code, record.not_complete = 0, True
    yield pb.Record(exit=record)
