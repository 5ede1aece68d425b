"""What Ray Train calls in each worker: the training loop of `training/loop.py`, for this attempt."""

from __future__ import annotations

import os
from typing import Any


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the loop; see `loop.train`."""
    from trainer.driver.ray_train import ATTEMPT
    from trainer.training import exhausted, loop  # in the worker only: the driver needs no PyTorch

    with exhausted.explained():
        return loop.train({**settings, "attempt": int(os.environ[ATTEMPT])})
