"""The round trip through the copy engine: A → place → read back gives A, and a second copy writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

from .. import migrate
from ..adapters.base import Capabilities, Copy, RunWriter, Sink, Source
from ..adapters.batches import Fingerprint
from ..adapters.fit_stream import STREAMS, Stream, fingerprint
from ..adapters.merge import same
from ..adapters.paths import checked
from ..adapters.restored import Restored, restored
from ..errors import Corrupt, Unsupported
from ..model import Artifact, Experiment, File, Origin, Run, to_builtins, to_json
from .compare import Difference, short
from .drive import add_columns, sha256_of
from .memory_source import MemorySource

# Ids are the place's, and a reference to what was not copied has nothing to point at.
_IDS = {"id", "experiment", "parent", "fork", "artifacts", "origin", "url"}


def round_trip(
    source: MemorySource, sink: Callable[[], Sink], back: Callable[[], Source], settle: Callable[[], None]
) -> Iterator[Difference]:
    """Copy twice, check deeply, read back; everything that is not as it was."""
    with tempfile.TemporaryDirectory(prefix="outgrow-") as folder, ExitStack() as opened:
        ledger = Path(folder) / "ledger.db"
        for attempt in ("first", "second"):
            with sink() as target:
                report = migrate.copy(source, target, ledger=ledger, workers=2, target_source=back)
            settle()
            for failure in report.failures:
                yield Difference("refused", f"{attempt}: {failure.type}: {failure.message}")
            for outcome in report.runs:
                hostile = any(_hostile(file) for file, _ in source.by_run[outcome.source_run].files)
                wanted = "partial" if hostile else "copied" if attempt == "first" else "unchanged"
                if outcome.state != wanted:
                    error = (
                        "" if outcome.error is None else f": {outcome.error.type}: {outcome.error.message}"
                    )
                    yield Difference("copy", f"{attempt} copy: {outcome.identity} is {outcome.state}{error}")
        with _ReadBack(sink(), back) as target:
            found = migrate.check(source, target, deep=True)
        ours = {f"{source.location.platform}:{run_id}" for run_id in source.by_run}
        every = [file for data in source.by_run.values() for file, _ in data.files]
        refusals = {f"files/{file.path}" for file in every if _hostile(file)}
        for run in found.runs:
            for difference in run.differences:
                refused = difference.what in refusals
                if run.identity in ours and not difference.expected and not refused:
                    yield Difference("check", f"{run.identity}: {difference.what}: {difference.detail}")
        for difference in found.registry:
            if not difference.expected and difference.sign != "+":
                yield Difference("check", f"registry: {difference.what}: {difference.detail}")
        for failure in found.failures:
            yield Difference("check", f"{failure.type}: {failure.message}")
        yield from read_back(source, restored(opened.enter_context(back())))


class _ReadBack(Sink):
    """A sink that `check` reads back through the place's own source."""

    def __init__(self, sink: Sink, source: Callable[[], Source]) -> None:
        self._sink, self.source = sink, source
        self.location = sink.location

    @property
    def capabilities(self) -> Capabilities:
        return self._sink.capabilities

    def copies(self) -> Iterator[Copy]:
        return self._sink.copies()

    def find(self, identity: str) -> Copy | None:
        return self._sink.find(identity)

    def native(self, run_id: str) -> Copy | None:
        return self._sink.native(run_id)

    def experiment(self, experiment: Experiment) -> str:
        raise Unsupported("a check writes nothing")

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        raise Unsupported("a check writes nothing")

    def close(self) -> None:
        self._sink.close()


def _hostile(file: File) -> bool:
    try:
        checked(file.path)
    except Corrupt:
        return True
    return False


def read_back(original: MemorySource, place: Restored) -> Iterator[Difference]:
    """Every original run, compared with what the restored place gives, field by field and row by row."""
    found: dict[str, tuple[Run, Experiment]] = {}
    for listed in place.experiments():
        for run in place.runs(listed):
            if run.origin is not None and run.origin.platform == original.location.platform:
                found[run.origin.run_id] = run, place.experiment_of(run, listed)
    for run_id, data in original.by_run.items():
        if run_id not in found:
            yield Difference("restored", f"run {run_id!r} is not there")
            continue
        back, experiment = found[run_id]
        for field in fields(Run):
            if field.name not in _IDS:
                wanted, got = getattr(data.run, field.name), getattr(back, field.name)
                if not same(to_builtins(wanted), to_builtins(got)):
                    yield Difference(f"restored.{field.name}", short(wanted, got))
        if data.run.parent in found and back.parent != found[data.run.parent][0].id:
            yield Difference("restored.parent", f"{back.parent!r}, of {data.run.parent!r}")
        wanted_experiment = original.by_experiment[data.run.experiment]
        for name in ("name", "description", "tags", "created_at"):
            wanted, got = getattr(wanted_experiment, name), getattr(experiment, name)
            if not same(wanted, got):
                yield Difference("restored.experiment", f"{name}: {short(wanted, got)}")
        yield from _bulk(original, data.run, place, back)


def _bulk(original: Source, run: Run, place: Source, back: Run) -> Iterator[Difference]:
    for stream in STREAMS:
        prints = [_prints(source, stream, one) for source, one in ((original, run), (place, back))]
        if prints[0] != prints[1]:
            counts = [{key: count for key, (count, _) in print_[0].items()} for print_ in prints]
            yield Difference(f"restored.{stream}", short(*counts))
    files = [_files(source, one, source.files(one)) for source, one in ((original, run), (place, back))]
    if files[0] != files[1]:
        yield Difference("restored.files", short(*files))
    artifacts = [_artifacts(source, one) for source, one in ((original, run), (place, back))]
    if artifacts[0] != artifacts[1]:
        yield Difference("restored.artifacts", f"{artifacts[1]}, not {artifacts[0]}"[:600])


def _prints(source: Source, stream: Stream, run: Run) -> tuple[dict[str, tuple[int, int]], ...]:
    rows, columns = Fingerprint(), Fingerprint()
    for batch in getattr(source, stream)(run):
        fingerprint(stream, batch, rows)
        add_columns(batch, columns)
    return rows.by_key, columns.by_key


def _files(source: Source, run: Run, files: Iterable[File]) -> dict[str, str]:
    return {
        file.path: file.reference or sha256_of(source.open(run, file)) for file in files if not _hostile(file)
    }


def _artifacts(source: Source, run: Run) -> list[object]:
    uses = {use.artifact: (use.role, use.used_as, use.step) for use in run.artifacts}
    return sorted(
        ((a.name, a.type, a.version, uses[a.id], _facts(a), _files(source, run, source.artifact_files(a)))
         for a in source.artifacts(run)), key=repr,
    )  # fmt: skip


def _facts(artifact: Artifact) -> str:
    return to_json(
        replace(artifact, id="", created_by=None, metrics=[replace(m, run=None) for m in artifact.metrics])
    )
