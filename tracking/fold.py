"""Journal records → the run as it stands, and what is new in a stretch of the journal, in columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Union

from ..errors import SchemaVersionError
from ..model import Artifact, DatasetUse, Environment, File, Run, Status, Value, from_builtins
from .records import (
    JOURNAL_FORMAT,
    Change,
    Dataset,
    Finish,
    Histogram,
    Made,
    Metrics,
    Params,
    Record,
    Start,
    Stored,
    Tags,
    Text,
)
from .values import moment

if TYPE_CHECKING:
    import pyarrow as pa

    from ..adapters.fit_stream import Stream

Item = Union[File, "NewArtifact"]


@dataclass(frozen=True, slots=True)
class NewArtifact:
    artifact: Artifact
    files: list[File]
    role: str
    register: dict[str, Any] | None


@dataclass(slots=True)
class News:
    """What a stretch of the journal adds."""

    records: int = 0
    damaged: int = 0
    params: dict[str, Value] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    datasets: list[DatasetUse] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    artifacts: list[NewArtifact] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    steps: list[int | float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    numbers: list[float | str] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)

    def points(self, fractional: bool) -> pa.RecordBatch:
        """The new points as `batches.POINTS`, with float steps where `fractional`."""
        from ..adapters import batches

        steps: list[Any] = [float(step) for step in self.steps] if fractional else self.steps
        values = [float(value) for value in self.numbers]
        return batches.points(self.keys, steps, self.times, values)

    def has(self, stream: Stream) -> bool:
        return bool({"points": self.keys, "texts": self.texts, "histograms": self.histograms}[stream])

    def batch(self, stream: Stream, fractional: bool) -> pa.RecordBatch:
        """The new rows of a stream in the order in which they were logged."""
        if stream == "points":
            return self.points(fractional)
        return self.text_batch() if stream == "texts" else self.histogram_batch()

    def text_batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        from ..adapters import batches

        rows = self.texts
        return pa.record_batch(
            [*_common(rows), pa.array([row.text for row in rows], pa.large_string())], batches.TEXTS
        )

    def histogram_batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        from ..adapters import batches

        rows = self.histograms
        floats = pa.list_(pa.float64())
        columns = ([list(map(float, given)) for given in part] for part in _parts(rows))
        return pa.record_batch(
            [*_common(rows), *(pa.array(column, floats) for column in columns)], batches.HISTOGRAMS
        )


def _parts(rows: list[Histogram]) -> tuple[list[list[float | str]], list[list[float | str]]]:
    return [row.edges for row in rows], [row.counts for row in rows]


def _common(rows: list[Any]) -> Iterator[pa.Array]:
    import pyarrow as pa

    from ..adapters import batches

    yield pa.array([row.key for row in rows], pa.string()).dictionary_encode()
    yield pa.array([float(row.step) for row in rows], pa.float64())
    yield pa.array([row.time for row in rows], batches.TIME)


class Fold:
    """The run as the records so far tell it."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.start: Start | None = None
        self.to: list[str] = []
        self.ended = False
        self.fractional = False
        self.last_time = 0
        self.highest_step: int | float = -1
        self.keys: dict[str, None] = {}
        """Keys of all series, in the order of their first use."""
        self.files: dict[str, File] = {}
        """The loose files by path, the latest of each."""
        self.artifacts: list[NewArtifact] = []
        self.has: set[str] = set()
        """Kinds and paths of what was logged, as the policy asks for them."""

    def add(self, record: Record, news: News) -> None:
        """Take in one record. Raises `SchemaVersionError` for a journal of a later release."""
        if isinstance(record, Metrics):
            self._metrics(record, news)
            return
        if isinstance(record, Start):
            self._start(record, news)
            return
        run = self.run
        if run is None:  # its beginning is lost: nothing can be attributed
            news.damaged += 1
            return
        match record:
            case Params(body=body):
                found = from_builtins(body, dict)
                self.run = replace(run, params=run.params | found)
                news.params.update(found)
            case Tags(tags=tags, labels=labels):
                self.run = replace(
                    run, tags=run.tags | tags, labels=list(dict.fromkeys([*run.labels, *labels]))
                )
                news.tags.update(tags)
                news.labels += labels
            case Dataset(body=body):
                use = from_builtins(body, DatasetUse)
                self.has.add("dataset")
                if use not in run.datasets:
                    self.run = replace(run, datasets=[*run.datasets, use])
                    news.datasets.append(use)
            case Change(body=body):
                self.run = _changed(run, body)
            case Stored(body=body, kind=kind):
                file = from_builtins(body, File)
                news.files.append(file)
                self.files[file.path] = file
                self.has |= {file.path, *map(str, PurePosixPath(file.path).parents)} | (
                    {kind} if kind else set()
                )
            case Made():
                files = [from_builtins(file, File) for file in record.files]
                artifact = from_builtins(record.body, Artifact)
                self.has |= {artifact.type, artifact.id}
                if artifact.metadata.get("preprocessor"):
                    self.has.add("preprocessor")
                made = NewArtifact(artifact, files, record.role, record.register)
                news.artifacts.append(made)
                self.artifacts.append(made)
            case Text() | Histogram():
                (news.texts if isinstance(record, Text) else news.histograms).append(record)  # type: ignore[arg-type]
                self.keys[record.key] = None
                self._at(record.step, record.time)
            case Finish(status=status, time=time, exit_code=exit_code):
                self.ended = True
                self.run = replace(run, status=Status(status), ended_at=moment(time), exit_code=exit_code)

    def _start(self, record: Start, news: News) -> None:
        if record.format > JOURNAL_FORMAT:
            raise SchemaVersionError(
                f"the journal is of format {record.format}; this release reads up to {JOURNAL_FORMAT}",
                hint="deliver it with the release that wrote it: outgrow sync",
            )
        given = from_builtins(record.run, Run)
        self.start, self.to, self.ended = record, record.to, False
        self.last_time = max(self.last_time, record.time)
        if self.run is None:
            self.run = given
        else:  # taken up again: what it knew stays, what is told anew counts
            self.run = replace(
                self.run,
                status=Status.RUNNING,
                ended_at=None,
                exit_code=None,
                name=given.name or self.run.name,
                params=self.run.params | given.params,
                tags=self.run.tags | given.tags,
                environment=given.environment or self.run.environment,
                code=given.code or self.run.code,
            )
        news.params.update(given.params)
        news.tags.update(given.tags)
        news.labels += given.labels

    def _metrics(self, record: Metrics, news: News) -> None:
        values = record.values
        if self.run is None:
            news.damaged += 1
            return
        news.keys.extend(values)
        news.steps.extend([record.step] * len(values))
        news.times.extend([record.time] * len(values))
        news.numbers.extend(values.values())
        if not values.keys() <= self.keys.keys():
            self.keys.update(dict.fromkeys(values))
        self.run.summary.update(values)  # the fold's own dictionary: made by from_builtins
        # A sample's step counts samples: it is none that the training goes on from.
        self._at(-1 if _is_sample(values) else record.step, record.time)

    def _at(self, step: int | float, time: int) -> None:
        self.last_time = max(self.last_time, time)
        self.highest_step = max(self.highest_step, step)
        self.fractional = self.fractional or isinstance(step, float)

    def killed(self) -> None:
        """The process is gone and said no goodbye."""
        if self.run is not None and not self.ended:
            self.run = replace(self.run, status=Status.KILLED, ended_at=moment(self.last_time))

    def current(self) -> Run:
        """The run with numbers in its summary."""
        assert self.run is not None
        return replace(self.run, summary={key: float(str(value)) for key, value in self.run.summary.items()})


def _is_sample(values: dict[str, Any]) -> bool:
    """Whether these are system metrics, of this or another rank (`rank1/system/…`)."""
    key = next(iter(values), "")
    return key.startswith("system/") or (key.startswith("rank") and "/system/" in key)


def _changed(run: Run, body: dict[str, Any]) -> Run:
    changes = dict(body)
    if (seeds := changes.pop("seeds", None)) is not None:
        known = run.environment or Environment()
        run = replace(run, environment=replace(known, seeds=known.seeds | seeds))
    return replace(run, **changes)
