"""Which runs could be reproduced or redeployed, and what each of the others lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..adapters.base import Source
from ..config import Policy
from ..errors import OutgrowError
from ..evidence import REDEPLOYABLE, REPRODUCIBLE, Kind, evidence, missing
from ..filters import Parts
from ..model import Artifact, Experiment, File, Run
from ..policy import check_finish, check_start
from ..reading import open_location, select

Rule = Literal[
    "weights", "preprocessor", "split", "seed", "commit", "environment", "dataset", "owner",
    "metrics-only", "dirty", "file-gone", "file-damaged", "name", "tag", "metric", "version-run-gone", "version-files-gone",
]  # fmt: skip
_WORDS = frozenset(
    {"weights", "preprocessor", "split", "seed", "commit", "environment", "dataset", "owner", "dirty"}
)
_RULE_OF_KIND: dict[str, Rule] = {"model": "weights", "code": "commit"}
_ADVICE: dict[Rule, str] = {
    "weights": "log the trained weights: run.log_model(model, name=…)",
    "preprocessor": "log the preprocessor or tokenizer with the model: run.log_model(model, preprocessor=…)",
    "split": "log which rows were trained and tested on: run.log_split(train=…, test=…)",
    "seed": "set and record the seed: params={'seed': …}",
    "commit": "run from a git checkout, so that the commit is recorded",
    "environment": "record the installed packages",
    "dataset": "name the data: run.use_dataset(…)",
    "owner": "add the tag owner",
    "dirty": "commit before a run, so that its code can be checked out again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    rule: Rule
    detail: str
    advice: str | None = None

    @property
    def brief(self) -> str:
        """The rule, where its name says all; else the detail."""
        return self.rule if self.rule in _WORDS else self.detail


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAudit:
    run: Run
    experiment: str
    reproducible: bool
    redeployable: bool
    evidence: dict[str, str]
    findings: list[Finding]

    @property
    def owner(self) -> str:
        return self.run.tags.get("owner") or self.run.user or "(nobody)"

    @property
    def project(self) -> str:
        return self.run.tags.get("project") or self.experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of one group of runs."""

    group: str
    runs: int
    reproducible: int
    redeployable: int
    findings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    runs: list[RunAudit]
    """Worst first."""
    registry: list[Finding]
    by_project: list[Summary] = field(default_factory=list)
    by_owner: list[Summary] = field(default_factory=list)

    @property
    def violating(self) -> int:
        """Runs with at least one finding, and registry entries with one."""
        return sum(bool(run.findings) for run in self.runs) + len(self.registry)


def audit(
    location: str | Source,
    *,
    where: str | None = None,
    experiments: Sequence[str] = (),
    deep: bool = False,
    policy: Policy | None = None,
    progress: Callable[[Run], None] | None = None,
) -> Audit:
    """Grade every terminal run.

    Listed files are opened, and with `deep` read whole and compared with their SHA-256 where the
    platform tells one. `policy` (`[policy]` of the configuration) adds its own rules.
    """
    source = open_location(location)
    chosen = select(source, where=where, experiments=experiments)
    return grade(
        source,
        chosen,
        deep=deep,
        policy=policy,
        progress=progress,
        registry=where is None and not experiments,
    )


def grade(
    source: Source,
    chosen: Iterable[tuple[Experiment, Run]],
    *,
    registry: bool,
    deep: bool = False,
    policy: Policy | None = None,
    progress: Callable[[Run], None] | None = None,
) -> Audit:
    """Grade runs that are already listed. `registry`: they are all runs, so that its versions can be graded too."""
    audits: list[RunAudit] = []
    complete: dict[str, set[str]] = {}
    for experiment, run in chosen:
        if not run.status.terminal:
            continue
        files, artifacts = list(source.files(run)), list(source.artifacts(run))
        every = files + [file for artifact in artifacts for file in source.artifact_files(artifact)]
        audits.append(_audit_run(source, run, experiment.name, files, artifacts, every, deep, policy))
        complete[run.id] = {file.path for file in every} | {artifact.id for artifact in artifacts}
        if progress:
            progress(run)
    audits.sort(key=lambda a: (-len(a.findings), a.project, a.owner, a.run.id))
    return Audit(
        runs=audits,
        registry=_audit_registry(source, complete) if registry else [],
        by_project=_summaries(audits, lambda a: a.project),
        by_owner=_summaries(audits, lambda a: a.owner),
    )


def _audit_run(
    source: Source,
    run: Run,
    experiment: str,
    files: Sequence[File],
    artifacts: Sequence[Artifact],
    every: Sequence[File],
    deep: bool,
    policy: Policy | None,
) -> RunAudit:
    found = evidence(run, every, artifacts)
    findings = [
        Finding(rule=(rule := _RULE_OF_KIND.get(kind, kind)), detail=f"no {rule}", advice=_ADVICE.get(rule))  # type: ignore[arg-type]
        for kind in missing([*dict.fromkeys((*REDEPLOYABLE, *REPRODUCIBLE)), "owner"], found)
    ]
    if not files and not artifacts:
        findings.append(Finding(rule="metrics-only", detail="metrics only: not one file beside them"))
    if run.code and run.code.dirty:
        kept = (
            f"; the difference is kept in {run.code.diff}"
            if run.code.diff
            else " and the difference was not kept"
        )
        findings.append(
            Finding(
                rule="dirty",
                detail=f"uncommitted changes over {(run.code.commit or '?')[:12]}{kept}",
                advice=_ADVICE["dirty"],
            )
        )
    findings += [
        f for file in every if file.reference is None and (f := _audit_file(source, run, file, deep))
    ]
    if policy:
        findings += _policy_findings(policy, run, found, every)
    damaged = any(f.rule in ("file-gone", "file-damaged") for f in findings)
    return RunAudit(
        run=run,
        experiment=experiment,
        reproducible=not missing(REPRODUCIBLE, found)
        and not damaged
        and not (run.code and run.code.dirty and not run.code.diff),
        redeployable=not missing(REDEPLOYABLE, found) and not damaged,
        evidence={str(kind): where for kind, where in found.items()},
        findings=findings,
    )


def _policy_findings(
    policy: Policy, run: Run, found: Mapping[Kind, str], files: Sequence[File]
) -> list[Finding]:
    has = {str(kind) for kind in found} | {file.path for file in files}
    broken = check_start(policy, run.name, run.tags) + check_finish(policy, run.tags, run.summary, has)
    words: dict[str, Rule] = {"name": "name", "required_metrics": "metric"}
    return [
        Finding(rule=words.get(v.rule, "tag"), detail=v.missing, advice=v.fix)
        for v in broken
        if v.rule != "required_artifacts"
    ]


def _audit_file(source: Source, run: Run, file: File, deep: bool) -> Finding | None:
    """Open the file: a listing is no proof that storage still has it."""
    try:
        with source.open(run, file) as stream:
            if not deep:
                if not stream.read(1) and file.size:
                    return Finding(
                        rule="file-damaged", detail=f"{file.path} is empty, {file.size} bytes are listed"
                    )
                return None
            hasher, size = hashlib.sha256(), 0
            while chunk := stream.read(1 << 20):
                hasher.update(chunk)
                size += len(chunk)
    except (OutgrowError, OSError) as error:
        return Finding(
            rule="file-gone", detail=f"{file.path} is listed and cannot be opened: {error}".splitlines()[0]
        )
    if file.size is not None and size != file.size:
        return Finding(rule="file-damaged", detail=f"{file.path} has {size} bytes, {file.size} are listed")
    if file.sha256 and hasher.hexdigest() != file.sha256:
        return Finding(rule="file-damaged", detail=f"{file.path} does not have its SHA-256")
    return None


def _audit_registry(source: Source, complete: dict[str, set[str]]) -> list[Finding]:
    models = [model for model in source.registry() if model.kind == "model"]
    if not models:
        return []
    known = {run.id: run for _, run in select(source, deleted=True, parts=Parts())}
    findings = []
    for model in models:
        for version in model.versions:
            name = f"{model.name} version {version.version}" + (
                f" ({', '.join(version.aliases)})" if version.aliases else ""
            )
            if version.run is None or version.run not in known:
                findings.append(
                    Finding(
                        rule="version-run-gone",
                        detail=f"{name}: its run {version.run or '(none)'} is not there",
                    )
                )
            elif known[version.run].deleted:
                findings.append(
                    Finding(rule="version-run-gone", detail=f"{name}: its run {version.run} is deleted")
                )
            if version.run in complete and not _has_files(
                version.artifact, version.path, complete[version.run]
            ):
                findings.append(
                    Finding(rule="version-files-gone", detail=f"{name}: no file of it in run {version.run}")
                )
    return findings


def _has_files(artifact: str | None, path: str | None, held: set[str]) -> bool:
    if artifact is not None:
        return artifact in held
    if path is None:
        return bool(held)
    return any(name == path or name.startswith(path.rstrip("/") + "/") for name in held)


def _summaries(audits: Sequence[RunAudit], group: Callable[[RunAudit], str]) -> list[Summary]:
    groups: dict[str, list[RunAudit]] = {}
    for item in audits:
        groups.setdefault(group(item), []).append(item)
    result = [
        Summary(
            group=name,
            runs=len(items),
            reproducible=sum(i.reproducible for i in items),
            redeployable=sum(i.redeployable for i in items),
            findings=sum(len(i.findings) for i in items),
        )
        for name, items in groups.items()
    ]
    return sorted(result, key=lambda s: (-s.findings / s.runs, s.group))
