"""Experiments of a Comet server as plain values (`records.Native`, `assets.Asset`, points)."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa

from ...errors import Corrupt, Vanished
from . import points as metric
from . import texts
from .api import EXISTS, Api, Refused
from .assets import TEXTS, Asset, metadata_of
from .location import Project
from .messages import Line
from .records import Native

PAGE = 500
"""Experiments listed at a time."""
THREADS = 8
_AHEAD = 16

T = TypeVar("T")
U = TypeVar("U")


def ahead(pool: ThreadPoolExecutor, call: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`map` in a pool, in order, with a bounded number of answers waiting."""
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class Remote:
    """Reads experiments through `Api`. Raises `Vanished` for one that is gone."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="comet")

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.api.close()

    # --- listing ------------------------------------------------------------------------------

    def projects(self, workspace: str) -> list[dict[str, Any]]:
        return list(self.api.get("projects", workspaceName=workspace).get("projects") or ())

    def listing(self, project: Project) -> Iterator[dict[str, Any]]:
        """The metadata of every experiment, archived ones included, page by page."""
        for archived in (False, True):
            page, seen = 1, set[str]()
            while True:
                found = self.api.get(
                    "experiments",
                    workspaceName=project.workspace,
                    projectName=project.name,
                    archived=archived,
                    page=page,
                    size=PAGE,
                ).get("experiments", [])
                new = [one for one in found if one["experimentKey"] not in seen]
                yield from new
                seen.update(one["experimentKey"] for one in new)
                # A server that knows no pages answers with everything each time.
                if len(found) < PAGE or not new:
                    break
                page += 1

    def metadata(self, key: str) -> dict[str, Any] | None:
        """None where there is no experiment of that key, or it is not ours to see."""
        try:
            found = self.api.get("experiment/metadata", experimentKey=key)
        except (Refused, Vanished):
            return None
        return found or None

    def create(self, key: str, project: Project) -> None:
        """Make sure that the experiment exists, for what must belong to one before it is uploaded."""
        payload = {
            "experimentKey": key,
            "projectName": project.name,
            "teamName": project.workspace,
            "offline": True,
            "local_timestamp": int(time.time() * 1000),
        }
        try:
            self.api.clientlib("logger/add/run", payload)
        except Refused as error:
            if error.code != EXISTS:
                raise

    # --- one experiment -------------------------------------------------------------------------

    def values(self, endpoint: str, key: str) -> dict[str, Any]:
        """Name → current value, of params, others or metrics."""
        found = self._get(endpoint, key).get("values") or ()
        return {str(value["name"]): value.get("valueCurrent") for value in found}

    def _get(self, endpoint: str, key: str) -> dict[str, Any]:
        try:
            return self.api.get(endpoint, experimentKey=key)
        except Refused as error:
            raise Vanished(f"experiment {key} is no longer on the server: {error.message}") from error

    def others(self, key: str) -> dict[str, Any]:
        return self.values("experiment/log-other", key)

    def native(self, listed: dict[str, Any]) -> Native:
        """Everything of an experiment but its points, texts and files; `listed` is its metadata."""
        key = str(listed["experimentKey"])
        workspace, project = listed.get("workspaceName"), listed.get("projectName")
        system = self._get("experiment/system-details", key)
        native = Native(
            key=key,
            experiment=f"{workspace}/{project}",
            params=self.values("experiment/parameters", key),
            texts_only=True,
            others=self.others(key),
            labels=[str(tag) for tag in self._get("experiment/tags", key).get("tags") or ()],
            summary={k: _number(v) for k, v in self.summary(key).items()},
            start=listed.get("startTimeMillis"),
            end=listed.get("endTimeMillis"),
            duration=listed.get("durationMillis"),
            running=bool(listed.get("running")),
            crashed=bool(listed.get("hasCrashed")),
            archived=bool(listed.get("archived")),
            system=_system(system, listed),
            packages=[str(line) for line in system.get("installedPackages") or ()],
            git=self._get("experiment/git/metadata", key),
            file_name=listed.get("filePath") or listed.get("fileName"),
            url=f"{self.api.server}/{workspace}/{project}/{key}",
        )
        if listed.get("optimizationId"):
            native.extra["optimization"] = str(listed["optimizationId"])
        return native

    def summary(self, key: str) -> dict[str, Any]:
        """Metric name → the newest value, canonical keys."""
        found = self.values("experiment/metrics/summary", key)
        return {metric.canonical_key(name): value for name, value in found.items()}

    def series(self, key: str) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Native name and points of every metric."""

        def one(name: str) -> tuple[str, pa.RecordBatch]:
            answer = self.api.get("experiment/metrics/get-metric", experimentKey=key, metricName=name)
            return name, _points(name, answer.get("metrics") or [])

        yield from ahead(self.pool, one, list(self.values("experiment/metrics/summary", key)))

    def assets(self, key: str) -> list[Asset]:
        found = self._get("experiment/asset/list", key).get("assets") or ()
        return [asset_of(one) for one in found if not one.get("artifactVersionId")]

    def bytes(self, key: str, asset: str, version: str | None = None) -> BinaryIO:
        return self.api.download({"experimentKey": key, "assetId": asset, "artifactVersionId": version})

    def output(self, key: str) -> list[Line]:
        text = self._get("experiment/output", key).get("output") or ""
        return [("console/stdout", str(text), None)] if text else []

    def texts(self, key: str) -> Iterator[pa.RecordBatch]:
        for asset in self.assets(key):
            if asset.name == TEXTS:
                with self.bytes(key, asset.id) as stream:
                    yield from texts.read(stream)
                return
        yield from texts.output(self.output(key))


def asset_of(found: dict[str, Any]) -> Asset:
    """An entry of `experiment/asset/list` or `artifacts/version/files`."""
    group = found.get("groupingName")
    step = found.get("step")
    return Asset(
        id=str(found["assetId"]),
        name=str(found.get("fileName") or ""),
        type=str(found.get("type") or "asset"),
        group=None if group is None else str(group),
        size=found.get("fileSize"),
        step=int(step) if isinstance(step, int | float) else None,
        created=found.get("createdAt"),
        link=str(found["link"]) if found.get("remote") and found.get("link") else None,
        metadata=metadata_of(found.get("metadata")),
    )


def _points(name: str, found: list[dict[str, Any]]) -> pa.RecordBatch:
    steps = [one["step"] for one in found if one.get("step") is not None]
    fractional = any(isinstance(step, float) and not step.is_integer() for step in steps)
    try:
        return metric.from_metrics(name, found, metric.Shape(fractional=fractional, epoch=True, context=True))
    except (pa.ArrowException, KeyError) as error:
        raise Corrupt(f"the values of the metric {name!r} are not what Comet gives ({error})") from error


def _number(value: object) -> Any:
    try:
        return float(str(value))
    except ValueError:
        return value


_SYSTEM = {
    "executable": "python_exe",
    "osRelease": "os_release",
    "osType": "os_type",
    "pythonVersion": "python_version",
    "pythonVersionVerbose": "python_version_verbose",
}


def _system(details: dict[str, Any], listed: dict[str, Any]) -> dict[str, Any]:
    """System details under the names that the SDK's messages have."""
    found = {_SYSTEM.get(k, k): v for k, v in details.items() if v not in (None, "", [], {})}
    if isinstance(found.get("env"), str):
        try:
            found["env"] = json.loads(found["env"])
        except ValueError:
            found.pop("env")
    if listed.get("userName"):
        found.setdefault("user", listed["userName"])
    return found
