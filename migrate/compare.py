"""Comparing one run with its copy, as the target gives it back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..adapters.base import Capabilities, Concept, Source
from ..adapters.fit import FittedRun, fit_run
from ..adapters.fit_stream import STREAMS, Stream
from ..adapters.merge import FIELDS, same
from ..adapters.origin import is_origin_file
from ..adapters.restored import Restored
from ..model import Artifact, ArtifactUse, Experiment, File, Run, Value
from .compare_points import compare_stream, fingerprint_of
from .names import FileNames, loose_folder
from .report import Difference, Sign
from .streams import FittedStream


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A run, and its copy as the target's source gives it."""

    run: Run
    experiment: Experiment
    twin: Run
    twin_experiment: Experiment
    experiment_name: str
    """The name that the experiment should have in the target."""
    parent: str | None
    """The id that the parent should have in the target."""


class Comparison:
    """Fills `differences`. Raises what reading either side raises."""

    def __init__(
        self, pair: Pair, source: Restored, target: Restored, caps: Capabilities, *, deep: bool
    ) -> None:
        self.pair, self.source, self.target, self.caps, self.deep = pair, source, target, caps, deep
        self.back: Source = target.source
        self.fitted: FittedRun = fit_run(pair.run, caps)
        self.stats = source.stats(pair.run)
        self.differences: list[Difference] = []
        self.points = 0
        self.files = 0
        self._inexact = False
        self._suspect = False

    def compare(self) -> list[Difference]:
        self._fields()
        self._mappings()
        self._final_values()
        self._counts()
        if self.deep or self._suspect:
            self._streams()
        if self.caps.native("files"):
            self._loose_files()
        self._artifacts()
        if self.deep:
            self._origin_record()
        return self.differences

    def _differ(
        self, sign: Sign, what: str, detail: str = "", concept: str | None = None, expected: bool = False
    ) -> None:
        """`concept`: a place that is declared to lose something makes the difference an expected one."""
        if concept is not None and concept in self.caps.holds:
            expected = expected or not self.caps.holds[concept].lossless  # type: ignore[index]
        if sign == "-" and not self.pair.run.status.terminal:
            expected, detail = True, f"{detail} (the run is still running)".strip()
        self.differences.append(Difference(sign=sign, what=what, detail=detail, expected=expected))

    # --- the record ------------------------------------------------------------------------

    def _fields(self) -> None:
        pair, wanted, here = self.pair, self.fitted.run, self.pair.twin
        if self.caps.native("experiments") and pair.experiment_name != pair.twin_experiment.name:
            self._differ(
                "*", "experiment", f"{pair.experiment_name!r} expected, {pair.twin_experiment.name!r} found"
            )
        if self.caps.native("parent") and pair.parent != here.parent:
            self._differ("*", "parent", f"{pair.parent!r} expected, {here.parent!r} found", "parent")
        for name, concept in FIELDS.items():
            if concept is not None and not self.caps.native(concept):  # type: ignore[arg-type]
                continue
            want, have = getattr(wanted, name), getattr(here, name)
            if want is not None and not same(have, want):
                self._differ("*", name, f"{_short(want)} expected, {_short(have)} found", concept)

    def _mappings(self) -> None:
        wanted, here = self.fitted.run, self.pair.twin
        self._mapping("params", wanted.params, here.params)
        self._mapping("tags", wanted.tags, here.tags, extra_is_fine=True)
        if self.caps.native("labels"):
            for label in set(wanted.labels) - set(here.labels):
                self._differ("-", f"labels/{label}", concept="labels")
        if self.caps.native("datasets"):
            have = {(use.name, use.digest) for use in here.datasets}
            for use in wanted.datasets:
                if (use.name, use.digest) not in have:
                    self._differ("-", f"datasets/{use.name}", concept="datasets")

    def _mapping(
        self,
        concept: Concept,
        wanted: Mapping[str, Value],
        here: Mapping[str, Value],
        *,
        extra_is_fine: bool = False,
    ) -> None:
        if not self.caps.native(concept):
            return
        for key, want in wanted.items():
            if key not in here:
                self._differ("-", f"{concept}/{key}", concept=concept)
            elif not same(here[key], want):
                self._differ(
                    "*", f"{concept}/{key}", f"{_short(want)} expected, {_short(here[key])} found", concept
                )
        for key in here.keys() - wanted.keys():
            self._differ("+", f"{concept}/{key}", concept=concept, expected=extra_is_fine)

    def _final_values(self) -> None:
        """Where the target has no summary of its own, what it shows comes from its points."""
        if self.caps.native("summary"):
            self._mapping("summary", self.fitted.run.summary, self.pair.twin.summary, extra_is_fine=True)
            return
        for key, value in self.pair.run.summary.items():
            if not isinstance(value, int | float):
                continue
            have = self.pair.twin.summary.get(self.fitted.keys(key))
            if not isinstance(have, int | float) or not same(float(have), float(value)):
                self._suspect = True

    def _counts(self) -> None:
        here = self.back.stats(self.pair.twin)
        for name in STREAMS:
            if self.caps.native(name):
                want, have = getattr(self.stats, name), getattr(here, name)
                self._suspect = self._suspect or (want is not None and have is not None and want != have)

    # --- streams ---------------------------------------------------------------------------

    def _streams(self) -> None:
        for stream in STREAMS:
            if not self.caps.native(stream):
                continue

            def expected(stream: Stream = stream) -> FittedStream:
                fresh = fit_run(self.pair.run, self.caps)
                return FittedStream(self.source, stream, self.pair.run, self.stats, fresh, self.caps)

            wanted, differences = compare_stream(stream, expected, self.back, self.pair.twin)
            for difference in differences:
                self._differ(difference.sign, difference.what, difference.detail, stream)
            if stream == "points":
                self.points = wanted.fitter.written.count
            self._inexact = self._inexact or bool(wanted.fitter.inexact)

    # --- files -----------------------------------------------------------------------------

    def _loose_files(self) -> None:
        names = FileNames(self.source.files(self.pair.run), self.caps)
        for path, reason in names.refused.items():
            self._differ("-", f"files/{path}", reason)
        wanted = {names.target[f.path]: f for f in names.files if f.path in names.target}
        if not self.caps.native("artifacts"):
            wanted |= self._loose_artifacts()
        self._compare_files("files", wanted, self.back.files(self.pair.twin), self.pair.twin)

    def _loose_artifacts(self) -> dict[str, File]:
        wanted: dict[str, File] = {}
        uses = {use.artifact: use for use in self.pair.run.artifacts}
        for artifact in self.source.artifacts(self.pair.run):
            if self._held(uses.get(artifact.id)):
                names = FileNames(self.source.artifact_files(artifact), self.caps)
                folder = loose_folder(artifact)
                wanted |= {
                    f"{folder}/{names.target[f.path]}": f for f in names.files if f.path in names.target
                }
        return wanted

    def _held(self, use: ArtifactUse | None) -> bool:
        return use is None or use.role == "output" or self.caps.native("artifact_inputs")

    def _compare_files(
        self, place: str, wanted: Mapping[str, File], found: Iterable[File], twin: Run
    ) -> None:
        here = {file.path: file for file in found if not is_origin_file(file.path)}
        for path, file in wanted.items():
            if file.reference is not None:
                if self.caps.native("references") and path not in here:
                    self._differ("-", f"{place}/{path}", "a reference", "references")
                continue
            self.files += 1
            copy = here.get(path)
            if copy is None:
                self._differ("-", f"{place}/{path}", concept="files")
            elif file.size is not None and copy.size is not None and file.size != copy.size:
                self._differ("*", f"{place}/{path}", f"{file.size} bytes expected, {copy.size} found")
            elif self.deep:
                want, have = _sha256(self.source, self.pair.run, file), _sha256(self.back, twin, copy)
                if want != have:
                    self._differ("*", f"{place}/{path}", f"SHA-256 {want[:12]}… expected, {have[:12]}… found")
        for path in here.keys() - wanted.keys():
            self._differ("+", f"{place}/{path}", concept="files", expected=True)

    def _artifacts(self) -> None:
        if not self.caps.native("artifacts"):
            return
        found = {artifact.id: artifact for artifact in self.back.artifacts(self.pair.twin)}
        record = self.target.record(self.pair.twin)
        ids = {a.artifact.id: a.id for a in record.artifacts} if record else {}
        uses = {use.artifact: use for use in self.pair.run.artifacts}
        for artifact in self.source.artifacts(self.pair.run):
            if not self._held(uses.get(artifact.id)):
                continue
            what = f"artifacts/{artifact.name}"
            copy = found.get(ids.get(artifact.id) or "") or _same_name(artifact, found)
            if copy is not None:  # several may share a name: each is matched once, in order
                del found[copy.id]
            if copy is None:
                self._differ("-", what, concept="artifacts")
                continue
            if self.caps.native("aliases") and not set(artifact.aliases) <= set(copy.aliases):
                self._differ(
                    "*", f"{what}/aliases", f"{artifact.aliases} expected, {copy.aliases} found", "aliases"
                )
            names = FileNames(self.source.artifact_files(artifact), self.caps)
            for path, reason in names.refused.items():
                self._differ("-", f"{what}/{path}", reason)
            wanted = {names.target[f.path]: f for f in names.files if f.path in names.target}
            self._compare_files(what, wanted, self.back.artifact_files(copy), self.pair.twin)

    # --- the origin record -----------------------------------------------------------------

    def _origin_record(self) -> None:
        """The restored copy must be the run again."""
        origin = self.pair.twin.origin
        if self.target.record(self.pair.twin) is None and (origin is None or origin.recorded):
            self._differ("-", "origin record", "the original cannot be restored from this copy")
            return
        listed = self.target.restore(self.pair.twin, self.pair.twin_experiment)
        for name in (*FIELDS, "params", "tags", "summary", "labels", "datasets"):
            want, have = getattr(self.pair.run, name), getattr(listed, name)
            if not same(have, want):
                self._differ(
                    "*", f"origin record/{name}", f"{_short(want)} expected, {_short(have)} restored"
                )
        for stream in STREAMS:
            if self._inexact or not self.caps.native(stream):
                want_rows = fingerprint_of(stream, getattr(self.source, stream)(self.pair.run))
                have_rows = fingerprint_of(stream, getattr(self.target, stream)(listed))
                if want_rows.by_key != have_rows.by_key:
                    detail = f"{want_rows.count} rows expected, {have_rows.count} restored, or they differ"
                    self._differ("*", f"origin record/{stream}", detail)


def _same_name(artifact: Artifact, found: Mapping[str, Artifact]) -> Artifact | None:
    alike = [a for a in found.values() if a.name == artifact.name]
    exact = [a for a in alike if a.version == artifact.version]
    return next(iter(exact or alike), None)


def _sha256(source: Source, run: Run, file: File) -> str:
    digest = hashlib.sha256()
    with closing(source.open(run, file)) as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = repr(value) if not hasattr(value, "isoformat") else value.isoformat()
    return text if len(text) <= 80 else text[:79] + "…"
