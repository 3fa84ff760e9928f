"""What a source must do. See `outgrow.testing.contract`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ..adapters.batches import Fingerprint
from ..errors import OutgrowError
from ..filters import EVERY_PART, Parts, parse
from ..model import File, to_builtins
from . import hostile, records
from .compare import read_all
from .drive import Expected
from .place import Contract, Place, find_run, written


class ReadingContract(Contract):
    """What a source must do. `place` holds what the tests write into it."""

    @pytest.fixture
    def filled(self, place: Place, suffix: str) -> Expected:
        expected, found = written(place, hostile.renamed(records.history(2, platform="contract"), suffix))
        assert not [difference.text for difference in found if difference.aspect == "refused"]
        return expected

    def test_reading_changes_nothing(self, place: Place, filled: Expected) -> None:
        before = place.state()
        with place.source() as source:
            for experiment in source.experiments():
                for run in source.runs(experiment):
                    read_all(source, run)
                list(source.traces(experiment))
            list(source.registry())
            list(source.evaluation_datasets())
            list(source.problems())
        assert place.state() == before

    def test_vanished(self, place: Place, filled: Expected) -> None:
        with place.source() as source:
            list(source.experiments())
            known = next(iter(filled.runs.values())).run
            gone = replace(known, id="0123456789abcdef0123456789abcdef", artifacts=[])
            with pytest.raises(OutgrowError):
                list(source.points(gone))
            run = find_run(source, known.id)
            assert run is not None
            with pytest.raises(OutgrowError), source.open(run, File(path="no/such/file")) as stream:
                stream.read()

    def test_filters(self, place: Place, filled: Expected) -> None:
        with place.source() as source:
            caps = place.sink().capabilities
            where = parse(
                'name == "digits-sweep-001"' + (" and params.lr > 0.05" if caps.native("params") else "")
            )
            found = [
                run.id
                for experiment in source.experiments()
                for run in source.runs(experiment, where)
                if run.id in filled.runs and where(run, experiment.name)
            ]
            assert found == [id_ for id_, e in filled.runs.items() if e.run.name == "digits-sweep-001"]

    def test_lists(self, place: Place, filled: Expected) -> None:
        """A list of parts of runs, filtered by its caller, is what the runs read whole are."""
        some = Parts(fields=frozenset({"name", "labels", "started_at"}), summary=frozenset({"train/loss"}))
        known = next(iter(filled.runs))
        used = {expected.run.experiment for expected in filled.runs.values()}
        asked = [
            (None, some),
            (None, EVERY_PART),
            (parse(f"id == {known!r}"), EVERY_PART),
            (parse('not deleted and metrics["eval/accuracy"] > 0.9'), some),
            (parse('params.lr > 0.05 or tags.owner == "ml"'), Parts(params=None)),
        ]
        with place.source() as source:
            for experiment in source.experiments():
                if experiment.id not in used:
                    continue
                whole = list(source.runs(experiment))
                assert whole
                for where, parts in asked:
                    looked_at = parts | where.parts if where else parts
                    wanted = [run for run in whole if where is None or where(run, experiment.name)]
                    listed = source.listed(experiment, where, looked_at)
                    found = [run for run in listed if where is None or where(run, experiment.name)]
                    assert [run.id for run in found] == [run.id for run in wanted]
                    for run, other in zip(found, wanted, strict=True):
                        assert to_builtins(looked_at.of(run)) == to_builtins(looked_at.of(other))

    def test_stats_are_true(self, place: Place, filled: Expected) -> None:
        with place.source() as source:
            for run_id in filled.runs:
                run = find_run(source, run_id)
                assert run is not None
                told = source.stats(run)
                points = Fingerprint.of(source.points(run))
                files = list(source.files(run))
                true = {
                    "series": len(points.by_key),
                    "points": points.count,
                    "longest_series": max((count for count, _ in points.by_key.values()), default=0),
                    "texts": sum(batch.num_rows for batch in source.texts(run)),
                    "histograms": sum(batch.num_rows for batch in source.histograms(run)),
                    "files": len(files),
                }
                for name, value in true.items():
                    assert getattr(told, name) in (None, value), name

    def test_two_readers_at_once(self, place: Place, filled: Expected) -> None:
        with place.source() as source:
            runs = [run for run_id in filled.runs if (run := find_run(source, run_id))]
            alone = [read_all(source, run) for run in runs]
            with ThreadPoolExecutor(4) as pool:
                together = list(pool.map(lambda run: read_all(source, run), runs * 4))
        assert together == alone * 4
