"""What Ray Train calls in each worker: the training loop of `training/loop.py`, for this attempt."""

from __future__ import annotations

import os
from typing import Any


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the loop; see `loop.train`."""
    import ray.train

    from trainer.driver import ray_train
    from trainer.storage import logs
    from trainer.training import exhausted, loop  # in the worker only: the driver needs no PyTorch

    ray_train.print_no_reports()
    attempt = int(os.environ[ray_train.ATTEMPT])
    rank = ray.train.get_context().get_world_rank()
    printed = {f"worker-{rank}.{name}": file for name, file in logs.own_outputs(out=1, err=2).items()}
    with logs.Keeper(settings["run"], attempt, printed, prunes=rank == 0), exhausted.explained():
        return loop.train({**settings, "attempt": attempt})
