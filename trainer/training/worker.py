"""This process as one worker of its group: its rank, its device, and how all ranks come to the same answer."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import ray.train
import torch
import torch.distributed

from trainer.config import Config
from trainer.storage import logs
from trainer.storage.schema import Pod
from trainer.training import device, pod

T = TypeVar("T")


class WorkerFacts(TypedDict):
    """What the record keeps about a worker."""

    host: str  # machine or pod
    device: str
    precision: str
    precision_reason: str
    threads: int
    process_began_at: float  # seconds since 1970
    pod: Pod | None
    outputs: dict[str, str]  # files that hold its stdout ("out") and stderr ("err") on its node


@dataclass(frozen=True)
class Worker:
    """One of the `world_size` workers that train together, numbered by `rank` from 0."""

    rank: int
    world_size: int
    device: torch.device
    autocast: torch.autocast
    facts: WorkerFacts

    @classmethod
    def join(cls, config: Config) -> Worker:
        """Return the worker that Ray Train started this process as, with its device ready for use.

        Raises:
            ResourceError: the config asks for a GPU and PyTorch finds none.
        """
        context = ray.train.get_context()
        chosen = device.choose(config)
        device.prepare(chosen)
        precision, reason = device.choose_precision(config, chosen)
        return cls(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=chosen,
            autocast=torch.autocast(chosen.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
            facts={
                "host": platform.node(),
                "device": str(chosen),
                "precision": precision,
                "precision_reason": reason,
                "threads": torch.get_num_threads(),
                "process_began_at": device.process_began(),
                "pod": pod.facts(),
                "outputs": {name: str(file) for name, file in logs.own_outputs(out=1, err=2).items()},
            },
        )

    def flags_of_rank_zero(self, *flags: bool) -> tuple[bool, ...]:
        """Return rank 0's flags on every rank; a collective call."""
        if self.world_size == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(tensor, src=0)
        return tuple(bool(flag) for flag in tensor.tolist())

    def object_of_rank_zero(self, value: T) -> T:
        """Return rank 0's object, pickled, on every rank; a collective call."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]
