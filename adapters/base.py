"""The adapter contract: what a platform must be able to do to be read from and written to.

A third party writes `Source` and/or `Sink` with their abstract methods, and proves them with
`outgrow.testing`. Everything else has a default that says "this platform has none of it", and
what a sink can hold is declared as data in `Capabilities`: mapping code reads the declaration
and never asks which platform it is.

Ids: a `Source` yields its own ids. A `Sink` is given records whose references (`Run.experiment`,
`Run.parent`, `ModelVersion.run`, …) are already the target's ids, and whose keys, values and
lengths already fit its capabilities (`adapters.fit`); what still does not fit is `Rejected`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, Self

from ..errors import Unsupported
from ..model import (
    Artifact,
    ArtifactUse,
    DatasetUse,
    EvaluationDataset,
    Experiment,
    File,
    Origin,
    RegisteredModel,
    Run,
    Trace,
    Value,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from ..filters import Filter, Parts
    from ..locations import Location

ORIGIN_FOLDER = "outgrow"
"""Folder, among a copied run's files, that holds its origin record (`adapters.origin`)."""

RESERVED = "outgrow."
"""Prefix of our own tags in a target. A source hides them and sets `Run.origin` from them."""
ORIGIN_KEY = "outgrow.origin"
"""Tag (or the platform's nearest place) of a copied run: `Origin.identity`."""
MARK_KEY = "outgrow.complete"
"""Tag of a copied run that is complete, written last: the mark given to `RunWriter.finish`."""
NATIVE_MARK = "native"
"""`Copy.mark` of a run that was recorded here and is no copy."""
LIVE_MARK = "live"
"""The mark of a run that `outgrow.tracking` delivered here itself, to its end."""


@dataclass(frozen=True, slots=True)
class TextLimit:
    """What a text may be. Lengths count characters, unless `bytes` says UTF-8 bytes."""

    length: int | None = None
    allowed: str | None = None
    """Regular-expression character class of the allowed characters, such as `[\\w./-]`."""
    bytes: bool = False
    empty: bool = True
    path_like: bool = False
    """The text must be a clean relative path: no empty, `.` or `..` part (MLflow keys)."""


Concept = Literal[
    "experiments", "experiment_tags", "experiment_created_at",
    "params", "tags", "labels", "summary", "description", "user", "parent", "fork", "group",
    "job_type", "sweep", "started_at", "ended_at", "created_at", "duration", "exit_code", "deleted",
    "points", "texts", "histograms", "datasets", "code", "environment",
    "files", "references", "artifacts", "aliases", "artifact_inputs", "linked_metrics",
    "registry", "registry_aliases", "stages", "registry_times", "prompts", "traces", "evaluation_datasets",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hold:
    """Where a platform keeps a concept of the model, and whether that place loses anything."""

    where: str
    lossless: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a sink can hold and its limits, as data. Docs tables and loss tables come from it.

    A concept missing from `holds` has no place on the platform: it travels in the origin record.
    """

    holds: Mapping[Concept, Hold] = field(default_factory=lambda: MappingProxyType({}))

    metric_key: TextLimit = TextLimit()
    param_key: TextLimit = TextLimit()
    param_value: TextLimit = TextLimit()
    """Of a value in its text form."""
    tag_key: TextLimit = TextLimit()
    tag_value: TextLimit = TextLimit()
    label: TextLimit = TextLimit()
    run_name: TextLimit = TextLimit()
    experiment_name: TextLimit = TextLimit()
    description: TextLimit = TextLimit()
    file_path: TextLimit = TextLimit()
    model_name: TextLimit = TextLimit()

    param_types: frozenset[str] = frozenset(
        {"null", "bool", "int", "float", "str", "list", "dict", "datetime"}
    )
    """Types that come back as they went in. Others become their text form."""
    int_bits: int | None = None
    """Largest signed integer param kept as an integer; None: any size."""
    nonfinite: frozenset[str] = frozenset({"nan", "inf", "-inf"})
    """Non-finite metric values that the platform keeps."""
    float_steps: bool = True
    negative_steps: bool = True
    null_steps: bool = True
    repeated_steps: bool = True
    """Several points of one key at one step are all kept."""
    decreasing_steps: bool = True
    """A value may have a lower step than the one before it. False: `StreamFitter` drops such points
    and histograms, and numbers such texts anew; the sink is given increasing steps only."""
    exact_duplicates: bool = True
    """Two identical points stay two."""
    point_times: Literal["us", "ms", "s", "none"] = "us"
    null_point_times: bool = True
    times_before_1970: bool = True
    """A point may have a time before 1970 UTC. False: it gets the beginning of 1970."""
    run_times: Literal["us", "ms", "s", "none"] = "us"
    point_columns: frozenset[str] = frozenset()
    """Optional columns of points (`epoch`, `context`) that the platform keeps."""
    max_points_per_series: int | None = None
    step_decimals: int | None = None
    """Decimal places of a step that the platform keeps; None: all that a double has."""
    max_step: int | None = None
    """Values with a step of this size or more have no place there."""
    max_text: int | None = None
    """Characters of one value of a text series."""

    version_numbers: Literal["any", "sequential", "semantic"] = "any"
    """Registry versions: free text; 1, 2, 3… given by the platform; or three numbers (`1.0.0`)."""
    exact: bool = False
    """Every record comes back as it went in: a run that lost nothing needs no origin record."""
    chosen_run_ids: bool = False
    """A run's id can be derived from its origin, so that concurrent copies meet."""
    replay: Literal["idempotent", "append"] = "idempotent"
    """What sending points again does: nothing, or a second set of points."""
    live: bool = True
    """A run may be written while it is running, and be read meanwhile."""

    batch_points: int = 100_000
    """Points a `RunWriter.points` call should hold at most."""
    writers: int | None = None
    """Runs that may be written at once; None: as many as the user asks for."""
    flush_runs: int = 1
    """Finished runs that one `Sink.flush` makes durable together."""
    flush_points: int = 1
    """Points after which a flush is worth while. A flush happens at whichever comes first."""

    def native(self, concept: Concept) -> bool:
        return concept in self.holds


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStats:
    """What a source knows about a run's bulk without reading it. None: not known cheaply."""

    series: int | None = None
    points: int | None = None
    texts: int | None = None
    histograms: int | None = None
    files: int | None = None
    file_bytes: int | None = None
    longest_series: int | None = None
    fractional_steps: int | None = None
    """Points with a fractional step."""
    nonfinite: int | None = None
    """Points whose value is NaN or infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How a location is read or written, and about how fast, for the plan's estimate.

    Rates are orders of magnitude measured on two cores; `advice` names a faster way, if any.
    """

    path: str
    points_per_second: float
    files_per_second: float = 200.0
    bytes_per_second: float = 50e6
    runs_per_second: float = 50.0
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A run in a target that outgrow made.

    `mark` is written last: None means that the copy was begun and never finished.
    """

    identity: str
    """`Origin.identity` of the run it is a copy of."""
    run_id: str
    mark: str | None = None
    url: str | None = None

    @property
    def home(self) -> bool:
        """Whether the run is here of itself: no copy has to bring anything."""
        return self.mark in (NATIVE_MARK, LIVE_MARK)


class _Closing:
    """Both sides may hold connections; close them, or use `with`."""

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Source(_Closing, ABC):
    """The reading side of a platform. It never changes what it reads.

    Methods may be called from several threads at once. Errors are those of `outgrow.errors`:
    `Vanished` where something is gone since it was listed, `Corrupt` where bytes are damaged,
    `Unavailable` where a repeat may help.
    """

    location: Location
    throughput: Throughput = Throughput(path="unknown", points_per_second=5_000)

    @abstractmethod
    def experiments(self) -> Iterator[Experiment]:
        """Every experiment, deleted ones included."""

    @abstractmethod
    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        """The experiment's runs, whole but for their points and files; deleted ones included.

        `where` may be pushed down as far as the platform can; the caller filters again.
        """

    def listed(self, experiment: Experiment, where: Filter | None, parts: Parts) -> Iterator[Run]:
        """The experiment's runs for a list: of each, only `parts` need to be as `runs` gives them.

        A fast path for platforms that can read a part of many runs at once; the order is that of
        `runs`. `parts` holds what `where` looks at, which may be pushed down; the caller filters
        again. A run with an origin record (`Origin.recorded`) comes whole, and whatever `where`
        says beyond its `ids`, since only that record knows what it was. Unless `parts` is `filters.EVERY_PART`, a run
        of a list may be given to no other method: read it whole first.
        """
        return self.runs(experiment)

    @abstractmethod
    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        """Every point of every numeric series, as `batches.POINTS`; memory bounded by the batch.

        Points of one key come in the platform's own order.
        """

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        """Every point of every text series, as `batches.TEXTS`."""
        return iter(())

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        """Every point of every histogram series, as `batches.HISTOGRAMS`."""
        return iter(())

    def files(self, run: Run) -> Iterator[File]:
        """The run's loose files (not those of artifact versions). Paths are not yet checked."""
        return iter(())

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        """The artifact versions named in `run.artifacts`, in that order."""
        return iter(())

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        """The files of one artifact version; `File.artifact` is its id."""
        return iter(())

    def open(self, run: Run, file: File) -> BinaryIO:
        """The bytes of a file of `files` or `artifact_files`; the caller closes it."""
        raise Unsupported(f"{self.location} holds no files")

    def registry(self) -> Iterator[RegisteredModel]:
        """Every registered model and prompt, with its versions, oldest first."""
        return iter(())

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        return iter(())

    def evaluation_datasets(self) -> Iterator[EvaluationDataset]:
        return iter(())

    def stats(self, run: Run) -> RunStats:
        """What can be told without reading the run."""
        return RunStats()

    def problems(self) -> Iterable[str]:
        """What is known to be missing or damaged here (an exporter's error file, a cut log)."""
        return ()


class RunWriter(ABC):
    """One run being written, live or in bulk. Calls come from one thread.

    Every call may be repeated with the same arguments after a crash (see `Capabilities.replay`).
    """

    run_id: str
    """The run's id in the target."""
    url: str | None = None

    @abstractmethod
    def params(self, params: Mapping[str, Value]) -> None: ...

    @abstractmethod
    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        """Key → text tags and plain labels. A repeated key replaces; labels are added."""

    @abstractmethod
    def points(self, batch: pa.RecordBatch) -> None:
        """Points as `batches.POINTS`, of any number of keys, in any order."""

    def texts(self, batch: pa.RecordBatch) -> None:
        raise Unsupported("this platform holds no text series")

    def histograms(self, batch: pa.RecordBatch) -> None:
        raise Unsupported("this platform holds no histogram series")

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        raise Unsupported("this platform holds no dataset inputs")

    @abstractmethod
    def file(self, file: File, stream: BinaryIO | None) -> None:
        """One loose file; `stream` is None for a reference that is only pointed at."""

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        """One artifact version with its files; returns its id in the target."""
        raise Unsupported("this platform holds no artifact versions")

    @abstractmethod
    def finish(self, run: Run, mark: str | None) -> None:
        """Write the run's final state (status, times, summary, description…), then `mark`, last.

        `mark=None` leaves the run unmarked: live logging of a run that is still running.
        Durable after the next `Sink.flush`.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up without a mark; what was written may stay, and is completed by the next `begin`."""


class Sink(_Closing, ABC):
    """The writing side of a platform. Methods may be called from several threads at once."""

    location: Location
    throughput: Throughput = Throughput(path="unknown", points_per_second=5_000)

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def copies(self) -> Iterator[Copy]:
        """Every run here that outgrow made, complete or not. Cheap: one listing."""

    def find(self, identity: str) -> Copy | None:
        """The copy of that run, or the run itself where it was recorded here (its mark is then `NATIVE_MARK`)."""
        if (copy := self.copy_of(identity)) is not None:
            return copy
        platform, _, run_id = identity.partition(":")
        return self.native(run_id) if platform == self.location.platform else None

    def copy_of(self, identity: str) -> Copy | None:
        """The copy of that run, if there is one. A sink that finds it without a listing does."""
        return next((copy for copy in self.copies() if copy.identity == identity), None)

    def native(self, run_id: str) -> Copy | None:
        """The run of that id, here, where it was recorded here itself; None where nothing is.

        Asked for each run of a source of the same platform.
        """
        return None

    @abstractmethod
    def experiment(self, experiment: Experiment) -> str:
        """Make sure that it exists; its id here. Never changes an existing one's own facts."""

    @abstractmethod
    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        """Create the run, or take up `existing` where an earlier attempt or a shorter copy left it."""

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        """Make the model and its versions exist here; `origin_version` → version here.

        Repeating it adds nothing twice, for `ModelVersion.origin_version` tells which is here.
        Versions that are here and not in `model` stay; an alias given to another leaves them.
        """
        raise Unsupported("this platform has no registry")

    def trace(self, trace: Trace, origin: Origin) -> str:
        """Write one trace, unless it is here; its id here."""
        raise Unsupported("this platform holds no traces")

    def evaluation_dataset(self, dataset: EvaluationDataset) -> str:
        """Write one evaluation data set, unless it is here; its id here."""
        raise Unsupported("this platform holds no evaluation data sets")

    def flush(self) -> None:
        """Make every finished run durable. Raises `PartlyFailed` where some are and others cannot be.

        After a `Transient` error it is called again, and tries what is left.
        """


class Remover(_Closing, ABC):
    """The deleting side of a platform, for retention alone: no copy, check or card has one.

    An adapter offers it as `remover(location)`; a platform without it cannot be cleaned by outgrow.
    """

    @abstractmethod
    def remove_files(self, run_id: str) -> None:
        """Delete the bytes of the run's own files and artifacts; its record stays."""

    @abstractmethod
    def remove_run(self, run_id: str) -> None:
        """Delete the run's record, as softly as the platform can (MLflow: restorable)."""

    @abstractmethod
    def orphans(self) -> Iterable[tuple[str, int]]:
        """Path and bytes of stored files that belong to no run or artifact."""

    @abstractmethod
    def remove_orphan(self, path: str) -> None: ...


class Annotator(_Closing, ABC):
    """The side of a platform that takes a card back beside what it describes, on request alone.

    An adapter offers it as `annotator(location)`; to a platform without it no card is written back.
    """

    description: TextLimit = TextLimit()
    """What a version's description may be."""

    @abstractmethod
    def attach(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Write loose files of the run, by path; one that is there is replaced, others are left alone."""

    @abstractmethod
    def describe(self, model: str, version: str, text: str) -> None:
        """Set the description of a registered model's version. Raises `Vanished` where there is none."""


class Adapter(Protocol):
    """What a platform's module offers as `adapter`."""

    def source(self, location: Location) -> Source: ...

    def sink(self, location: Location) -> Sink: ...

    def credentials(self) -> str | None:
        """Where credentials were found (never the credentials), or None."""
        ...
