"""What a sink must do. See `outgrow.testing.contract`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest

from ..adapters.base import ORIGIN_FOLDER, RESERVED
from ..adapters.batches import Fingerprint
from ..adapters.fit import fit_run
from ..adapters.fit_points import fit_points
from ..errors import OutgrowError
from ..model import File, Origin, Status
from . import hostile, records
from .compare import compare
from .drive import write
from .memory_source import MemorySource
from .place import Contract, Judge, Place, copies_of, find_run, one_run, origin_of, rows_of, written


class WritingContract(Contract):
    """What a sink must do, seen through its source."""

    @pytest.mark.parametrize("case", hostile.names())
    def test_hostile_run(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        """What the capabilities promise comes back, and nothing else; whatever the run is like."""
        source = hostile.load(case, suffix)
        _, found = written(place, source)
        judge(case, found)

    def test_writing_twice_is_writing_once(self, place: Place, suffix: str, judge: Judge) -> None:
        source = one_run(suffix)
        first, _ = written(place, source)
        second, found = written(place, source)
        assert list(first.runs) == list(second.runs)
        identities = [origin_of(source, data.run).identity for data in source.by_run.values()]
        assert len(copies_of(place, identities)) == 1
        judge("twice", found)

    @pytest.mark.parametrize("how", ["abort", "vanish"])
    def test_unfinished_run_is_completed(self, how: str, place: Place, suffix: str, judge: Judge) -> None:
        """A run that was begun and given up, or left by a dead process, becomes one complete copy."""
        source = one_run(suffix)
        (data,) = source.by_run.values()
        origin = origin_of(source, data.run)
        sink = place.sink()
        experiment = sink.experiment(next(source.experiments()))
        fitted = fit_run(data.run, sink.capabilities)
        writer = sink.begin(replace(fitted.run, experiment=experiment), origin)
        (points,) = source.points(data.run)
        writer.points(fit_points(points.slice(0, 7), fitted, sink.capabilities)[0])
        if how == "abort":
            writer.abort()
            sink.close()
        before = copies_of(place, [origin.identity])
        assert [copy.mark for copy in before] in ([], [None])
        expected, found = written(place, source)
        (after,) = copies_of(place, [origin.identity])
        assert after.run_id in expected.runs
        assert after.mark == "mark-1"
        judge("unfinished", found)

    def test_copies_and_find(self, place: Place, suffix: str) -> None:
        source = one_run(suffix)
        (data,) = source.by_run.values()
        identity = origin_of(source, data.run).identity
        with place.sink() as sink:
            assert sink.find(identity) is None
        expected, _ = written(place, source, mark="mark-7")
        (run_id,) = expected.runs
        (copy,) = copies_of(place, [identity])
        assert (copy.run_id, copy.mark) == (run_id, "mark-7")
        with place.sink() as sink:
            found = sink.find(identity)
            assert found is not None
            assert (found.identity, found.run_id, found.mark) == (identity, run_id, "mark-7")
            assert sink.find(identity + "-other") is None
            assert sink.native(run_id) is None

    def test_chosen_ids_do_not_depend_on_the_sink(self, place: Place, suffix: str) -> None:
        with place.sink() as sink:
            if not sink.capabilities.chosen_run_ids:
                pytest.skip("run ids are the platform's")
        source = one_run(suffix)
        first, _ = written(place, source)
        with place.sink() as sink:
            again = write(one_run(suffix), sink, target_rows=rows_of(place))
        assert list(first.runs) == list(again.runs)

    def test_experiment_is_made_once(self, place: Place, suffix: str) -> None:
        experiment = records.experiment(name=f"once{suffix}")
        with place.sink() as one, place.sink() as two:
            first = one.experiment(experiment)
            one.flush()
            assert one.experiment(experiment) == first
            assert two.experiment(replace(experiment, description="other")) == first

    def test_marks_and_tags_of_ours_are_hidden(self, place: Place, suffix: str) -> None:
        expected, _ = written(place, one_run(suffix))
        with place.source() as source:
            (run_id,) = expected.runs
            run = find_run(source, run_id)
            assert run is not None
            assert not [key for key in run.tags if key.startswith(RESERVED)]
            assert run.origin is not None
            assert run.origin.run_id == f"run{suffix}"

    def test_flush_is_enough(self, place: Place, suffix: str, judge: Judge) -> None:
        """What is finished and flushed can be read while the sink is still open."""
        sink = place.sink()
        expected = write(one_run(suffix), sink, target_rows=rows_of(place))
        place.settle()
        with place.source() as source:
            found = compare(expected, source, sink)
        sink.close()
        judge("flush", found)

    def test_origin_files(self, place: Place, suffix: str) -> None:
        source = one_run(suffix)
        (data,) = source.by_run.values()
        path = f"{ORIGIN_FOLDER}/origin.json"
        data.files.append(records.file(path, b'{"format": 1, "\xc3\xa9": "\xf0\x9f\x94\xa5"}'))
        expected, _ = written(place, source)
        with place.source() as back:
            run = find_run(back, next(iter(expected.runs)))
            assert run is not None
            (file,) = [file for file in back.files(run) if file.path == path]
            with back.open(run, file) as stream:
                assert stream.read() == data.files[-1][1]

    def test_live(self, place: Place, suffix: str, judge: Judge) -> None:
        """Points in many small batches, readable meanwhile; finished later, by another sink."""
        source = one_run(suffix, steps=40)
        (data,) = source.by_run.values()
        origin = origin_of(source, data.run)
        with place.sink() as sink:
            if not sink.capabilities.live:
                pytest.skip("the platform shows complete runs only")
            experiment = sink.experiment(next(source.experiments()))
            running = replace(data.run, experiment=experiment, status=Status.RUNNING, ended_at=None)
            fit = fit_run(running, sink.capabilities)
            fitted, caps = fit.run, sink.capabilities

            def some(first: int, last: int) -> Iterator[pa.RecordBatch]:
                for step in range(first, last, 2):
                    yield fit_points(records.points(steps=2, first_step=step, seed=step), fit, caps)[0]

            writer = sink.begin(fitted, origin)
            for batch in some(0, 20):
                writer.points(batch)
            writer.finish(fitted, None)
            sink.flush()
            place.settle()
            with place.source() as back:
                run = find_run(back, writer.run_id)
                assert run is not None
                assert run.status is Status.RUNNING
                assert Fingerprint.of(back.points(run)).count == 40
            for batch in some(20, 30):
                writer.points(batch)
            writer.finish(fitted, None)
            sink.flush()
        with place.sink() as sink:
            writer = sink.begin(fitted, origin, sink.find(origin.identity))
            for batch in some(30, 40):
                writer.points(batch)
            done = fit_run(replace(data.run, experiment=experiment), caps).run
            writer.finish(done, "mark-1")
            sink.flush()
        place.settle()
        (copy,) = copies_of(place, [origin.identity])
        assert copy.mark == "mark-1"
        with place.source() as back:
            run = find_run(back, writer.run_id)
            assert run is not None
            assert run.status is Status.FINISHED
            steps = [s for batch in back.points(run) for s in batch.column("step").to_pylist()]
            assert sorted(steps) == sorted([*range(40), *range(40)])

    def test_grown_run(self, place: Place, suffix: str, judge: Judge) -> None:
        """A run that was copied while it ran, and is copied again when it has more of everything."""
        source = one_run(suffix, status=Status.RUNNING, ended_at=None)
        first, _ = written(place, source, mark=None)
        (data,) = source.by_run.values()
        data.run = replace(
            data.run,
            status=Status.FINISHED,
            ended_at=records.START,
            params=data.run.params | {"late": 1},
            summary=data.run.summary | {"late": 2.0},
        )
        data.points = [records.points(steps=20), records.points(("late",), 5)]
        data.files.append(records.file("late.txt", b"late"))
        second, found = written(place, source, mark="mark-2")
        assert list(first.runs) == list(second.runs)
        judge("grown", found)

    def test_several_writers_at_once(self, place: Place, suffix: str, judge: Judge) -> None:
        source = hostile.renamed(records.history(4, platform="contract"), suffix)
        with place.sink() as sink:
            if sink.capabilities.writers == 1:
                pytest.skip("one run at a time")
            parts = [_part_of(source, run_id) for run_id in source.by_run]
            with ThreadPoolExecutor(4) as pool:
                results = list(pool.map(lambda part: write(part, sink, target_rows=rows_of(place)), parts))
            sink.flush()
        place.settle()
        with place.source() as back:
            judge("writers", [d for expected in results for d in compare(expected, back, sink)])

    def test_registering_twice_adds_nothing(self, place: Place, suffix: str) -> None:
        with place.sink() as sink:
            if not sink.capabilities.native("registry"):
                pytest.skip("no registry")
        source = hostile.load("registry", suffix)
        first, _ = written(place, source)
        second, _ = written(place, source)
        assert first.models == second.models
        with place.source() as back:
            for model in back.registry():
                if (wanted := first.models.get((model.kind, model.name))) is not None:
                    assert len(model.versions) == len(wanted.versions)

    def test_an_alias_moves_to_the_version_that_comes_with_it(self, place: Place, suffix: str) -> None:
        with place.sink() as sink:
            if not sink.capabilities.native("registry_aliases"):
                pytest.skip("no aliases of registered versions")
        source = hostile.renamed(records.history(2, platform="contract"), suffix)
        (model,) = source.models
        first, second = model.versions[:2]
        source.models = [replace(model, versions=[replace(first, aliases=["champion", "old"])])]
        expected, _ = written(place, source)
        source.models = [replace(model, versions=[replace(second, aliases=["champion"])])]
        written(place, source)
        names = {name for _, name in expected.models}
        with place.source() as back:
            held = [v for m in back.registry() if m.name in names for v in m.versions]
        assert sorted((v.version, a) for v in held for a in v.aliases if a in ("champion", "old")) == sorted(
            [(min(v.version for v in held), "old"), (max(v.version for v in held), "champion")]
        )

    def test_traces_and_evaluation_datasets(self, place: Place, suffix: str) -> None:
        source = hostile.load("traces", suffix)
        origin = Origin(platform=source.location.platform, run_id="")
        with place.sink() as sink:
            caps = sink.capabilities
            if not caps.native("traces") and not caps.native("evaluation_datasets"):
                pytest.skip("neither traces nor evaluation datasets")
            experiments = {e.id: sink.experiment(e) for e in source.experiments()}
            run_ids = {
                r.origin.run_id: r.id for r in [e.run for e in write(source, sink).runs.values()] if r.origin
            }
            for _ in range(2):
                if caps.native("traces"):
                    for trace in source.all_traces:
                        run = None if trace.run is None else run_ids[trace.run]
                        here = replace(trace, experiment=experiments[trace.experiment], run=run)
                        sink.trace(here, replace(origin, run_id=trace.id))
                if caps.native("evaluation_datasets"):
                    for dataset in source.datasets:
                        sink.evaluation_dataset(
                            replace(dataset, experiments=[experiments[e] for e in dataset.experiments])
                        )
                sink.flush()
        place.settle()
        with place.source() as back:
            if caps.native("traces"):
                traces = [
                    t for e in back.experiments() if e.id in experiments.values() for t in back.traces(e)
                ]
                assert sorted(
                    (t.started_at, t.duration_ms, len(t.spans), len(t.assessments)) for t in traces
                ) == sorted(
                    (t.started_at, t.duration_ms, len(t.spans), len(t.assessments)) for t in source.all_traces
                )
            if caps.native("evaluation_datasets"):
                names = [d.name for d in back.evaluation_datasets() if d.name.endswith(suffix)]
                assert sorted(names) == sorted(d.name for d in source.datasets)

    @pytest.mark.parametrize("path", ["../x", "/tmp/x", "a/../../x", "a\x00b", "C:/x", "a\\..\\x", "", "."])
    def test_hostile_path_is_refused(self, path: str, place: Place, suffix: str) -> None:
        source = one_run(suffix)
        (data,) = source.by_run.values()
        with place.sink() as sink:
            if not sink.capabilities.native("files"):
                pytest.skip("no files")
            experiment = sink.experiment(next(source.experiments()))
            fitted = fit_run(data.run, sink.capabilities).run
            writer = sink.begin(replace(fitted, experiment=experiment), origin_of(source, data.run))
            with pytest.raises(OutgrowError):
                writer.file(File(path=path, size=4), io.BytesIO(b"evil"))
            writer.abort()


def _part_of(source: MemorySource, run_id: str) -> MemorySource:
    data = source.by_run[run_id]
    wanted = {use.artifact for use in data.run.artifacts}
    return MemorySource(
        source.by_experiment.values(),
        [data],
        [a for a in source.by_artifact.values() if a.artifact.id in wanted],
        platform=source.location.platform,
    )
