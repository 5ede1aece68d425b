"""What the next step of a training depends on, as plain tensors by name, and as the files of a checkpoint.

``model.<parameter>``; ``optimizer.<i>.<j>.<value>`` for value ``<value>`` of parameter ``j`` in optimizer ``i``;
``rng.<rank>.cpu`` and ``.device``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
import torch.distributed
from torch import Tensor, nn

FILES = {"model": "model.safetensors", "optimizer": "optimizer.safetensors", "rng": "rng.safetensors"}

State = dict[str, Tensor]


def capture(network: nn.Module, optimizers: list[torch.optim.Optimizer], on: torch.device, world_size: int) -> State:
    """A copy of all that the next step depends on, in host memory. Every rank must call it: rank 0 gets all RNGs."""
    state = {f"model.{name}": _copy(tensor) for name, tensor in network.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{j}.{key}": _copy(value) for key, value in values.items() if value is not None}
    mine = {"cpu": torch.get_rng_state()} | ({"device": torch.cuda.get_rng_state(on)} if on.type == "cuda" else {})
    everyone = [mine]
    if world_size > 1:
        everyone = [{} for _ in range(world_size)]
        torch.distributed.all_gather_object(everyone, mine)
    state |= {f"rng.{rank}.{kind}": rng for rank, kinds in enumerate(everyone) for kind, rng in kinds.items()}
    return state


def _copy(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()


def restore(
    state: State, network: nn.Module, optimizers: list[torch.optim.Optimizer], on: torch.device, rank: int
) -> bool:
    """Put a state back, in place; whether the RNG of this rank was among it (else the number of workers changed)."""
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
    """A state as the files of a checkpoint."""
    return {
        file: safetensors.torch.save({name: t for name, t in state.items() if name.startswith(f"{part}.")})
        for part, file in FILES.items()
    }


def from_files(files: Mapping[str, bytes]) -> State:
    """The state in a checkpoint's files."""
    return {name: t for file in FILES.values() for name, t in safetensors.torch.load(files[file]).items()}
