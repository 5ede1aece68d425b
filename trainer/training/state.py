"""Everything the next step of a training depends on, as tensors by name and as the files of a checkpoint.

The names are ``model.<parameter>``, ``optimizer.<i>.<j>.<value>`` for value ``<value>`` of parameter ``j`` in optimizer
``i``, and ``rng.<rank>.cpu`` and ``rng.<rank>.device``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
import torch.distributed
from torch import Tensor, nn

from trainer.storage import checkpoints

FILES = {name.partition(".")[0]: name for name in checkpoints.FILES}  # by the first part of the names in each

State = dict[str, Tensor]


def capture(network: nn.Module, optimizers: list[torch.optim.Optimizer], on: torch.device, world_size: int) -> State:
    """Return a copy of everything the next step depends on, in host memory, with the RNG states of all ranks.

    Every rank must call it.
    """
    state = {f"model.{name}": _copy(tensor) for name, tensor in network.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{j}.{key}": _copy(value) for key, value in values.items() if value is not None}
    own_rng = {"cpu": torch.get_rng_state()}
    if on.type == "cuda":
        own_rng["device"] = torch.cuda.get_rng_state(on)
    rng_by_rank = [own_rng]
    if world_size > 1:
        rng_by_rank = [{} for _ in range(world_size)]
        torch.distributed.all_gather_object(rng_by_rank, own_rng)
    state |= {f"rng.{rank}.{kind}": value for rank, rng in enumerate(rng_by_rank) for kind, value in rng.items()}
    return state


def _copy(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()


def restore(
    state: State, network: nn.Module, optimizers: list[torch.optim.Optimizer], on: torch.device, rank: int
) -> bool:
    """Restore a state in place, and return whether it has an RNG state for this rank.

    It has none if the number of workers has grown since.
    """
    network.load_state_dict({name.removeprefix("model."): t for name, t in state.items() if name.startswith("model.")})
    for i, optimizer in enumerate(optimizers):
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, key = name.split(".", 3)
                values.setdefault(int(j), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
    if f"rng.{rank}.cpu" not in state:
        return False
    torch.set_rng_state(state[f"rng.{rank}.cpu"])
    if on.type == "cuda" and f"rng.{rank}.device" in state:
        torch.cuda.set_rng_state(state[f"rng.{rank}.device"], on)
    return True


def to_files(state: State) -> dict[str, bytes]:
    """Return a state as the files of a checkpoint, by name."""
    return {
        file: safetensors.torch.save({name: t for name, t in state.items() if name.startswith(f"{part}.")})
        for part, file in FILES.items()
    }


def from_files(files: Mapping[str, bytes]) -> State:
    """Return the state in a checkpoint's files."""
    return {name: t for file in FILES.values() for name, t in safetensors.torch.load(files[file]).items()}
