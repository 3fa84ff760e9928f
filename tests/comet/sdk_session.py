"""What a user of the vendor's SDK does, unmodified; run as a process. Prints what the SDK read, as JSON.

Arguments: a folder for offline archives, a folder for other files, then archives to upload.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import comet_ml
from comet_ml.scripts import comet_upload

ONLINE, READER = "online" + "0" * 30, "reader" + "0" * 30


def log(experiment: comet_ml.CometExperiment, file: Path) -> None:
    experiment.set_name("by the SDK")
    experiment.log_parameters({"lr": 1e-3, "model": {"layers": 2}, "nesterov": True, "note": "1"})
    for step in range(5):
        experiment.log_metric("loss", step / 3, step=step, epoch=step // 2)
    experiment.log_metric("loss", float("nan"), step=5)
    with experiment.train():
        experiment.log_metric("accuracy", 0.5, step=1)
    experiment.log_metric("sys.gpu.0.used", 7, step=1)
    experiment.log_other("owner", "ada")
    experiment.add_tag("baseline")
    experiment.log_asset(str(file), "data/a.txt", step=3, metadata={"rows": 10})
    experiment.log_remote_asset("s3://bucket/key", "far.bin")
    experiment.log_model("classifier", str(file))
    print("hello from training")


def main(zips: Path, folder: Path, archives: list[str]) -> dict[str, object]:
    file = folder / "a.txt"
    file.write_text("hello")
    options = {"log_code": False, "log_git_metadata": False, "log_env_details": False, "parse_args": False}
    offline = comet_ml.OfflineExperiment(
        project_name="digits", workspace="team", offline_directory=str(zips), **options
    )
    log(offline, file)
    offline.end()

    online = comet_ml.start(
        project_name="digits",
        workspace="team",
        experiment_key=ONLINE,
        experiment_config=comet_ml.ExperimentConfig(**options),
    )
    log(online, file)
    artifact = comet_ml.Artifact(
        "split", "dataset", version="1.2.0", aliases=["best"], version_tags=["small"], metadata={"rows": 10}
    )
    artifact.add(str(file), "train/a.txt")
    artifact.add_remote("s3://bucket/far.bin", "far.bin", sync_mode=False)
    online.log_artifact(artifact)
    online.end()

    reader = comet_ml.start(project_name="digits", workspace="team", experiment_key=READER)
    logged = reader.get_artifact("team/split:best")
    logged.download(str(folder / "downloaded"))
    reader.end()

    api = comet_ml.API()
    seen = api.get(f"team/digits/{ONLINE}")
    seen.register_model("classifier", version="1.0.0", tags=["small"], status="Production", comment="first")
    comet_upload.main(archives)
    return {
        "metrics": seen.get_metrics("loss"),
        "params": {one["name"]: one["valueCurrent"] for one in seen.get_parameters_summary()},
        "others": {one["name"]: one["valueCurrent"] for one in seen.get_others_summary()},
        "tags": seen.get_tags(),
        "assets": sorted(one["fileName"] for one in seen.get_asset_list()),
        "state": seen.get_state(),
        "models": seen.get_model_names(),
        "registry": api.get_registry_model_versions("team", "classifier"),
        "experiments": sorted(one.key for one in api.get_experiments("team", "digits")),
        "artifact": [asset.logical_path for asset in logged.assets],
        "downloaded": (folder / "downloaded" / "train" / "a.txt").read_text(),
        "version": comet_ml.__version__,
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    Path(sys.argv[2], "result.json").write_text(json.dumps(result))
