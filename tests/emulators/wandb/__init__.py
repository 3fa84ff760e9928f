"""A W&B server in memory, completed by the unmodified SDK: runs, history, files, artifacts, registry.

with WandbServer() as server:
    os.environ.update(server.environment(tmp_path))
    wandb.init(project="p").log({"loss": 1.0})
"""

from .server import WandbServer

__all__ = ["WandbServer"]
