"""Writing an MLflow database directly: whole groups of runs in one transaction.

What a run's writer is given waits in memory until `flush`, or until `FLUSH_POINTS` points wait.
Ids, times and users are kept as they were, which no API of MLflow can do.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...errors import LocationError, OutgrowError, Rejected
from ...locations import Location
from ...model import Artifact, EvaluationDataset, Experiment, Origin, RegisteredModel, Run, Trace
from ..base import MARK_KEY, NATIVE_MARK, ORIGIN_KEY, Capabilities, Copy, RunWriter, Sink, Throughput
from . import extras, sql_assets, sql_registry, sql_store
from .assets import NativeDataset
from .connection import Connection
from .place import artifact_root
from .records import LABELS, PLATFORM, experiment_tags, labels_of
from .sql_capabilities import FLUSH_POINTS, sql_capabilities
from .sql_database import Database
from .sql_points import Native
from .sql_stage import Row, Stage, Writer
from .sql_writer import SqlRunWriter

ROW_SIZE = 10
"""Points that take as much memory as one other row that waits."""
COPIES_FRESH = 10.0
"""Seconds for which a listing of the copies answers `find`."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a run is written."""

    run_id: str
    experiment_id: int
    artifact_uri: str
    experiment_uri: str


class SqlSink(Sink):
    """A database, made by MLflow's own migrations where there is none yet: with the first write,
    not before. Raises what `Database` and `check_schema` raise.
    """

    throughput = Throughput(
        path="direct SQL", points_per_second=120_000, files_per_second=500, runs_per_second=500
    )

    def __init__(self, location: Location) -> None:
        self.location = location
        self.artifact_root = artifact_root(location)
        self.database = Database(location, writable=True)
        self._capabilities = sql_capabilities(self.database.kind)
        self._writer = Writer(self.database)
        self._connection: Connection | None = None
        self._stage = Stage()
        self._staging = threading.Lock()
        """Held for moments, while something is put on the stage or the stage is taken away."""
        self._writing = threading.RLock()
        """Held while a transaction is written: what was staged first is written first."""
        self._refused: dict[str, Rejected] = {}
        """Run → why the database refused it."""
        self._experiments: dict[int, str] = {}
        self._models: dict[str, str] | None = None
        """Origin → id of the logged models that are copies."""
        self._copies: dict[str, Copy] = {}
        self._copies_at = float("-inf")
        self._ready = sql_store.is_there(self.database)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def close(self) -> None:
        with self._writing:
            self._writer.close()
            self.database.close()

    # --- what is here -------------------------------------------------------------------------

    def copies(self) -> Iterator[Copy]:
        if not self._ready:
            return
        rows = self.database.tuples(
            "SELECT o.run_uuid, o.value, m.value FROM tags o "
            "LEFT JOIN tags m ON m.run_uuid = o.run_uuid AND m.key = $1 WHERE o.key = $2",
            (MARK_KEY, ORIGIN_KEY),
        )
        for run_id, identity, mark in rows:
            yield Copy(identity=identity, run_id=run_id, mark=mark)

    def copy_of(self, identity: str) -> Copy | None:
        if not self._ready:
            return None
        platform, _, origin_id = identity.partition(":")
        for run_id in _possible_ids(Origin(platform=platform, run_id=origin_id)):
            if (found := self._copy(run_id)) and found.identity == identity:
                return found
        with self._staging:
            known, fresh = self._copies, time.monotonic() - self._copies_at < COPIES_FRESH
        if not fresh:
            known = {copy.identity: copy for copy in self.copies()}
            with self._staging:
                self._copies, self._copies_at = known, time.monotonic()
        if (copy := known.get(identity)) is not None:
            return self._copy(copy.run_id)
        return None

    def native(self, run_id: str) -> Copy | None:
        found = self._copy(run_id) if self._ready else None
        return found if found is not None and found.mark == NATIVE_MARK else None

    def _copy(self, run_id: str) -> Copy | None:
        """The run of that id as a copy; under its own identity where it was recorded here."""
        rows = self.database.tuples(
            "SELECT r.run_uuid, o.value, m.value FROM runs r "
            "LEFT JOIN tags o ON o.run_uuid = r.run_uuid AND o.key = $1 "
            "LEFT JOIN tags m ON m.run_uuid = r.run_uuid AND m.key = $2 WHERE r.run_uuid = $3",
            (ORIGIN_KEY, MARK_KEY, run_id),
        )
        for _, identity, mark in rows:
            if identity is None:
                return Copy(identity=f"{PLATFORM}:{run_id}", run_id=run_id, mark=NATIVE_MARK)
            return Copy(identity=identity, run_id=run_id, mark=mark)
        return None

    # --- writing ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the store, where there is none."""
        if not self._ready:
            with self._writing:
                if not self._ready:
                    sql_store.create(self.location, self.artifact_root, self.database)
                    self._ready = True

    def experiment(self, experiment: Experiment) -> str:
        self.prepare()
        with self._writing:
            id, made = sql_store.experiment(self.database, experiment, self.artifact_root)
            if made and (tags := experiment_tags(experiment)):
                rows = [{"key": k, "value": v, "experiment_id": id} for k, v in tags.items()]
                self._writer.upsert({"experiment_tags": (rows, "replace")})
        return str(id)

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        self.prepare()
        experiment_id = int(run.experiment)
        experiment_uri = self._experiment_uri(experiment_id)
        run_id = existing.run_id if existing else self._run_id(origin)
        rows = self.database.tuples(
            "SELECT artifact_uri, experiment_id FROM runs WHERE run_uuid = $1", (run_id,)
        )
        if rows and rows[0][0]:
            artifact_uri, experiment_id = str(rows[0][0]), int(rows[0][1])
        else:
            artifact_uri = sql_store.joined(experiment_uri, run_id, "artifacts")
        if self.database.kind == "postgresql" and len(artifact_uri) > 200:
            raise LocationError(
                f"{self.location}: the artifact root makes URIs longer than the 200 characters of the table runs",
                hint="choose a shorter one with ?outgrow.artifacts=URI",
            )
        home = Home(run_id, experiment_id, artifact_uri, experiment_uri)
        return SqlRunWriter(self, home, run, origin, self.labels(run_id) if rows else [])

    def _run_id(self, origin: Origin) -> str:
        """The run's own id where it came from MLflow and the id is free here; else one made of its
        identity, so that concurrent copies meet.
        """
        ids = _possible_ids(origin)
        own, made = ids[0], ids[-1]
        if own != made:
            there = self._copy(own)
            if there is None or (there.identity == origin.identity and there.mark != NATIVE_MARK):
                return own
        return made

    def model_id(self, artifact: Artifact, origin: Origin) -> tuple[str, str, bool]:
        """The id of a logged model here, the origin that it is marked with, and whether it is here.

        Its own id where it came from MLflow and the id is free; else one made of its origin.
        """
        key = f"{origin.platform}:{artifact.id}"
        with self._staging:
            if self._models is None:
                self._models = dict(sql_assets.copied_models(self.database))
            if key in self._models:
                return self._models[key], key, True
            id = "m-" + hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
            if origin.platform == PLATFORM and re.fullmatch(r"m-[0-9a-f]{32}", artifact.id):
                taken = self.database.tuples(
                    "SELECT 1 FROM logged_models WHERE model_id = $1", (artifact.id,)
                )
                id = id if taken else artifact.id
            self._models[key] = id
            return id, key, False

    def labels(self, run_id: str) -> list[str]:
        """The labels that a run has in the database."""
        rows = self.database.tuples(
            "SELECT key, value FROM tags WHERE run_uuid = $1 AND key = $2", (run_id, LABELS)
        )
        return labels_of(dict(rows))

    def _experiment_uri(self, id: int) -> str:
        if id not in self._experiments:
            rows = self.database.tuples(
                "SELECT artifact_location FROM experiments WHERE experiment_id = $1", (id,)
            )
            if not rows:
                raise Rejected(f"{self.location} has no experiment {id}")
            self._experiments[id] = str(rows[0][0] or sql_store.joined(self.artifact_root, str(id)))
        return self._experiments[id]

    def put(self, run_id: str, rows: Mapping[str, Iterable[Row]]) -> None:
        """Rows of one run, by table, for the next flush. Writes what waits, where that is enough."""
        with self._staging:
            if run_id in self._refused:
                raise self._refused.pop(run_id)
            stage = self._stage.run(run_id)
            for table, found in rows.items():
                for row in found:
                    stage.put(table, row)
                    self._stage.size += ROW_SIZE
            full = self._stage.size >= FLUSH_POINTS
        if full:
            self._write_staged()

    def put_datasets(self, home: Home, datasets: Iterable[NativeDataset]) -> None:
        with self._staging:
            stage = self._stage.run(home.run_id)
            stage.datasets |= {(d.name, d.digest): (home.experiment_id, d) for d in datasets}

    def put_points(self, run_id: str, points: Native) -> None:
        """Points of one run. Writes what waits, where that is enough."""
        with self._staging:
            self._stage.run(run_id).put_points(points)
            self._stage.size += points.rows.num_rows
            full = self._stage.size >= FLUSH_POINTS
        if full:
            self._write_staged()

    def drop(self, run_id: str) -> None:
        """Forget what waits of a run that was given up."""
        with self._staging:
            self._stage.runs.pop(run_id, None)
            self._refused.pop(run_id, None)

    def flush(self) -> None:
        self._write_staged()
        with self._staging:
            refused, self._refused = list(self._refused.values()), {}
        if len(refused) == 1:
            raise refused[0]
        if refused:
            raise Rejected(
                f"{len(refused)} runs: " + "; ".join(r.message for r in refused[:5]), hint=refused[0].hint
            )

    def _write_staged(self) -> None:
        """Write what waits. A run that the database refuses is told of later: to its own writer, or
        by `flush`; its siblings are written all the same.
        """
        with self._writing:
            with self._staging:
                stage, self._stage = self._stage, Stage()
            if not stage.runs:
                return
            try:
                self._writer.write(stage)
            except Rejected:
                for part in stage.split():
                    self._write_alone(part)
            except OutgrowError:
                with self._staging:  # it still waits: a repeat may succeed
                    stage.absorb(self._stage)
                    self._stage = stage
                raise

    def _write_alone(self, part: Stage) -> None:
        try:
            self._writer.write(part)
        except Rejected as error:
            (run_id,) = part.runs
            with self._staging:
                self._refused[run_id] = Rejected(f"run {run_id}: {error.message}", hint=error.hint)

    # --- the rest -----------------------------------------------------------------------------

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        self.prepare()
        self.flush()
        with self._writing:
            return sql_registry.register(self.database, self._writer, model)

    def trace(self, trace: Trace, origin: Origin) -> str:
        with self._writing:
            return extras.write_trace(self._through_mlflow(), trace, origin)

    def evaluation_dataset(self, dataset: EvaluationDataset) -> str:
        with self._writing:
            return extras.write_dataset(self._through_mlflow(), dataset)

    def _through_mlflow(self) -> Connection:
        """MLflow's own store, for what it keeps in forms of its own."""
        self.prepare()
        self.flush()
        if self._connection is None:
            self._connection = Connection(self.location, writable=True)
        return self._connection


def _possible_ids(origin: Origin) -> tuple[str, ...]:
    made = hashlib.blake2b(origin.identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    if origin.platform == PLATFORM and re.fullmatch(r"[0-9a-f]{32}", origin.run_id):
        return (origin.run_id, made)
    return (made,)
