"""The check that a training has not diverged: its loss and its weights are finite."""

from __future__ import annotations

import math

from torch import nn

from trainer.errors import DivergedError


def check(network: nn.Module, loss: float, epoch: int, done: int) -> None:
    """Check the loss and every weight after `done` steps.

    Raises:
        DivergedError: one of them is NaN or infinite.
    """
    check_loss(loss, epoch, done)
    # a NaN in a gradient reaches the weights on all ranks alike, even where the loss is still finite
    weights = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    if not math.isfinite(float(nn.utils.get_total_norm(weights))):
        raise _diverged("A weight became NaN or infinite", epoch, done)


def check_loss(loss: float, epoch: int, done: int) -> None:
    """Check a loss after `done` steps.

    Raises:
        DivergedError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise _diverged(f"The loss became {loss}", epoch, done)


def _diverged(problem: str, epoch: int, done: int) -> DivergedError:
    error = DivergedError(
        f"{problem} in epoch {epoch}, by step {done}: training diverged",
        "lower optimizer.lr, or set optimizer.grad_clip_norm=1",
    )
    error.step = done
    return error
