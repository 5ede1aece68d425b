"""A run's checkpoints as one rank of its training sees them: where to continue from, and when to save what.

Between two steps every rank gives its part of the state; `saver.py` then commits it behind the training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import nn

from trainer import __version__
from trainer.config import Config
from trainer.storage import checkpoints, skipped_steps, store
from trainer.storage.checkpoints import Checkpoint
from trainer.training import fetch
from trainer.training.async_saver import Saver
from trainer.training.preemption import SAVE_EVERY_S, Notice
from trainer.training.state import capture, from_files, restore

QUIET_S = 5.0  # how long the end of a run waits for an object store without saying so


class Checkpoints:
    """Those of a run, for one rank; `settings` as for `loop.train`.

    `resumed` says where training began: ``step``, ``resumed_from`` (a checkpoint's name, or None), ``damaged``, a
    sentence for each checkpoint that was put aside, ``unfinished``, names of newer ones without a manifest, and
    ``left_out``, the first and last of the steps ahead that are left out, or None.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        config: Config,
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        on: torch.device,
        rank: int,
        world_size: int,
    ):
        self._run, self._config, self._network, self._optimizers = settings["run"], config, network, optimizers
        self._on, self._rank, self._world_size = on, rank, world_size
        self.resumed: dict[str, Any] = {"step": 0, "resumed_from": None, "left_out": None}
        self.resumed |= {"damaged": [], "unfinished": []}
        self._left_out = range(0)
        self._stall_s = 0.0
        self._notice = Notice() if settings["preemptible"] else None
        self._saver: Saver | None = None
        if rank == 0:
            policy = config.checkpoint
            self._saver = Saver(
                self._run,
                settings["fence"],
                {
                    "attempt": settings["attempt"],
                    "config_sha256": config.sha256,
                    "data_sha256": {name: facts.sha256 for name, facts in fetch.FILES.items()},
                    "world_size": world_size,
                    "seed": config.seed,  # of the sample order; with these two, step and epoch are a position in it
                    "global_batch_size": config.global_batch_size,
                    "steps_per_epoch": config.steps_per_epoch,
                    "versions": {"trainer": __version__, "torch": torch.__version__},
                },
                policy.keep,
                policy.max_outage_s,
            )

    def resume(self) -> int:
        """Continue from the newest valid checkpoint, if there is one: how many steps are done.

        Raises:
            StorageError, CheckpointError: the storage does not answer, or no checkpoint is intact.
        """
        # every rank looks for itself, so that none waits in a collective while the storage is away ...
        mine, files, left_out = self._newest()
        agreed: list[Any] = [mine, left_out]
        if self._world_size > 1:
            torch.distributed.broadcast_object_list(agreed, src=0)  # ... and all take rank 0's
        chosen, self._left_out = agreed
        if chosen is None:
            return 0
        if chosen != mine:
            files, _ = checkpoints.read(self._run, chosen)
        if not restore(from_files(files), self._network, self._optimizers, self._on, self._rank):
            torch.manual_seed(self._config.seed + self._rank + chosen.step)  # a rank that was not there before
        self.resumed |= {"step": chosen.step, "resumed_from": chosen.name}
        if chosen.step < self._left_out.stop:
            self.resumed["left_out"] = [self._left_out.start + 1, self._left_out.stop]
        return int(chosen.step)

    def _newest(self) -> tuple[Checkpoint | None, dict[str, bytes], range]:
        def look() -> tuple[Checkpoint | None, dict[str, bytes], range]:
            self.resumed["unfinished"] = []
            found = checkpoints.newest_valid(self._run, self._note_damage, self._note_unfinished)
            which, files, _ = found or (None, {}, {})
            return which, files, skipped_steps.left_out(self._run)

        return store.through_outage(look, self._config.checkpoint.max_outage_s)

    def leave_out(self, done: int) -> bool:
        """Whether the step after `done` steps is not to be taken: its batch had led to a loss that is no number."""
        return done in self._left_out

    def _note_damage(self, which: Checkpoint, damage: str) -> None:
        self.resumed["damaged"].append(f"{which.name}: {damage}")

    def _note_unfinished(self, which: Checkpoint) -> None:
        self.resumed["unfinished"].append(which.name)

    def is_due(self) -> bool:
        """Whether it is time to save; rank 0 knows."""
        if self._saver is None:
            return False
        leaving = self._notice is not None and self._notice.holds
        return self._saver.is_due(SAVE_EVERY_S if leaving else self._config.checkpoint.every_s)

    def may_be_called_for(self) -> bool:
        """Whether it is time to ask if a node is about to be taken away; rank 0 knows."""
        return self._notice is not None and self._notice.may_be_asked()

    def are_called_for(self) -> bool:
        """Whether to save because a node is about to be taken away. Every rank must call it: Ray lets them agree."""
        return self._notice is not None and self._notice.is_new()

    def save(self, step: int, epoch: int) -> None:
        """Save the state after `step` steps; every rank must call it.

        Raises:
            StorageError, CheckpointError: as `Saver.save`.
        """
        began = time.perf_counter()
        state = capture(self._network, self._optimizers, self._on, self._world_size)
        if self._saver is not None:
            self._saver.save(step, epoch, state)
        self._stall_s += time.perf_counter() - began

    def score(self, step: int, accuracy: float) -> None:
        """Note the test accuracy, 0..1, after `step` steps: the best checkpoint is kept."""
        if self._saver is not None:
            self._saver.score(step, accuracy)

    def take_numbers(self) -> dict[str, Any]:
        """``saving_seconds``: how long saving held up training since the last call; ``outage``: why none is saved."""
        stall, self._stall_s = self._stall_s, 0.0
        return {"saving_seconds": stall, "outage": self._saver.outage if self._saver is not None else None}

    def held_up(self) -> dict[str, Any] | None:
        """If an object store has not taken the last state for a moment: ``outage``, why, and ``waits_s`` for `finish`.

        Every rank must call it.
        """
        if not store.is_remote(self._run):
            return None
        agreed = [self._saver.held_up(QUIET_S) if self._saver is not None else None]
        if self._world_size > 1:
            torch.distributed.broadcast_object_list(agreed, src=0)
        if agreed[0] is None:
            return None
        outage, waits_s = agreed[0]
        return {"outage": outage, "waits_s": waits_s}

    def finish(self) -> None:
        """Return when the last state is saved.

        Raises:
            StorageError, CheckpointError: as `Saver.finish`.
        """
        if self._saver is not None:
            self._saver.finish()
