"""A copy without the engine: every method of a source and a sink, in the engine's order."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace

from outgrow.adapters.base import Sink, Source
from outgrow.adapters.fit import fit_experiment, fit_model, fit_run
from outgrow.model import Origin


def copy(source: Source, sink: Sink, mark: str = "m") -> dict[str, str]:
    """Run ids of the source → of the sink. Then flushed."""
    ids: dict[str, str] = {}
    models: dict[str, str] = {}
    for experiment in source.experiments():
        fitted_experiment, _ = fit_experiment(experiment, sink.capabilities)
        home = sink.experiment(fitted_experiment)
        for run in source.runs(experiment):
            origin = run.origin or Origin(platform=source.location.platform, run_id=run.id)
            target = replace(
                fit_run(run, sink.capabilities).run,
                experiment=home,
                parent=ids.get(run.parent or ""),
                origin=None,
            )
            writer = sink.begin(target, origin, sink.find(origin.identity))
            ids[run.id] = writer.run_id
            writer.params(target.params)
            writer.tags(target.tags, target.labels)
            writer.datasets(target.datasets)
            for batch in source.points(run):
                writer.points(batch)
            for file in source.files(run):
                with closing(source.open(run, file)) as stream:
                    writer.file(file, stream)
            uses = {use.artifact: use for use in run.artifacts}
            for artifact in source.artifacts(run):
                here = replace(
                    artifact,
                    created_by=ids.get(artifact.created_by or ""),
                    metrics=[replace(m, run=ids.get(m.run or "")) for m in artifact.metrics],
                )
                with ExitStack() as opened:
                    files = (
                        (file, opened.enter_context(closing(source.open(run, file))))
                        for file in source.artifact_files(artifact)
                    )
                    models[artifact.id] = writer.artifact(here, uses[artifact.id], files)
            writer.finish(target, mark)
    sink.flush()
    for model in source.registry():
        fitted, _ = fit_model(model, sink.capabilities)
        versions = [
            replace(v, run=ids.get(v.run or ""), artifact=models.get(v.artifact or ""))
            for v in fitted.versions
        ]
        sink.register(replace(fitted, versions=versions))
    sink.flush()
    return ids
