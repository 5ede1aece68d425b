"""Saving behind the training: a worker copies its state between two steps, and a thread commits the copy."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray.train
import torch
import torch.distributed
from torch import nn

from trainer import __version__, checkpoint, fetch, lease
from trainer.checkpoint import Checkpoint
from trainer.config import Config
from trainer.errors import CheckpointError, OutageError, StorageError, in_a_line
from trainer.state import State, capture, from_files, restore, to_files

RETRY_EVERY_S = 2.0
ASK_EVERY_S = 1.0  # for news of a node that will be taken away
LAST_SAVE_S = 10.0  # before that: what is trained until then is not lost


class Saver:
    """Rank 0's: commits the newest state it was given, one at a time, and keeps the last few.

    `fence` is the number of the run's lease: once another has claimed the run, nothing is committed any more.
    """

    def __init__(self, run: str, fence: int, facts: Mapping[str, Any], every_s: float, keep: int, max_outage_s: float):
        self._run, self._fence, self._facts = run, fence, facts
        self._every_s, self._keep, self._max_outage_s = every_s, keep, max_outage_s
        self._given = time.monotonic()
        self._waiting: tuple[int, int, State] | None = None
        self._failure: CheckpointError | StorageError | None = None
        self._change = threading.Condition()
        self._busy = self._over = False
        self._thread = threading.Thread(target=self._commit_all, name="save-checkpoints", daemon=True)
        self._thread.start()

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._given >= self._every_s

    def save(self, step: int, epoch: int, state: State) -> None:
        """Take a state, made after `step` steps, in place of one that still waits.

        Raises:
            CheckpointError, StorageError: earlier ones could not be saved, and training on would risk too much.
        """
        with self._change:
            self._raise_failure()
            self._waiting, self._given = (step, epoch, state), time.monotonic()
            self._change.notify_all()

    def finish(self) -> None:
        """Return when the last state is committed.

        Raises:
            CheckpointError, StorageError: it could not be.
        """
        with self._change:
            self._change.wait_for(lambda: self._failure or not (self._busy or self._waiting))
            self._over = True
            self._change.notify_all()
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _commit_all(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._over or self._waiting)
                if self._waiting is None:
                    return
                (step, epoch, state), self._waiting, self._busy = self._waiting, None, True
            failure: CheckpointError | StorageError | None
            try:
                failure = self._committed(step, epoch, to_files(state))
            except Exception as error:  # noqa: BLE001 # a thread that died in silence would hold up the run's end for ever
                failure = CheckpointError(f"Step {step} could not be saved: {in_a_line(error)}.")
            with self._change:
                self._failure, self._busy = failure, False
                self._change.notify_all()
                if failure is not None:
                    return

    def _committed(self, step: int, epoch: int, files: dict[str, bytes]) -> CheckpointError | StorageError | None:
        began = time.monotonic()
        while True:
            error = self._tried(step, epoch, files)
            if not isinstance(error, OutageError):
                return error
            if time.monotonic() - began >= self._max_outage_s:
                return OutageError(f"{error} No checkpoint could be saved for {self._max_outage_s:.0f} s.")
            time.sleep(RETRY_EVERY_S)

    def _tried(self, step: int, epoch: int, files: dict[str, bytes]) -> CheckpointError | StorageError | None:
        try:
            if not lease.is_mine(self._run, self._fence):
                return CheckpointError(f"Another process has taken over {self._run}; this one stops.")
            if which := checkpoint.next_at(self._run, step, self._fence):
                checkpoint.commit(self._run, which, files, {**self._facts, "epoch": epoch})
            checkpoint.prune(self._run, self._keep)
        except (CheckpointError, StorageError) as error:
            return error
        return None


class Notice:
    """Ray's word that a node of this run will be taken away: it calls for a save at once, and one just before."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._deadline_ms: int | None = None
        self._last_save_at: float | None = None

    def may_be_asked(self) -> bool:
        """Whether it is time to ask; asking is a barrier of some milliseconds."""
        return time.monotonic() - self._asked >= ASK_EVERY_S

    def is_new(self) -> bool:
        """Ask whether there is a notice that was not seen before: the same answer on all ranks, which must all ask."""
        self._asked = time.monotonic()
        info: Any = ray.train.get_preemption_info()
        if info is None:
            self._deadline_ms = self._last_save_at = None
            return False
        if self._last_save_at is not None and info.deadline_ms == self._deadline_ms:
            return False
        self._deadline_ms = info.deadline_ms
        left = info.deadline_ms / 1000 - time.time() if info.deadline_ms is not None else 0.0
        self._last_save_at = time.monotonic() + max(0.0, left - LAST_SAVE_S)
        return True

    def last_save_is_due(self) -> bool:
        """Whether it is time for the save just before the node goes; true once. Clocks differ: one rank decides."""
        if self._last_save_at is None or time.monotonic() < self._last_save_at:
            return False
        self._last_save_at = float("inf")
        return True


class Checkpoints:
    """A run's checkpoints as one rank of its training sees them; `settings` as for `loop.train`.

    `resumed` says where training began: ``step``, ``resumed_from`` (a checkpoint's name, or None), and ``damaged``, a
    sentence for each checkpoint that was put aside.
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
        self.resumed: dict[str, Any] = {"step": 0, "resumed_from": None, "damaged": []}
        self._stall_s = 0.0
        self._notice = Notice() if settings["preemptible"] else None
        self._saver: Saver | None = None
        if rank == 0:
            checkpoints = config.checkpoint
            self._saver = Saver(
                self._run,
                settings["fence"],
                {
                    "config_sha256": config.sha256,
                    "data_sha256": {name: facts.sha256 for name, facts in fetch.FILES.items()},
                    "world_size": world_size,
                    "seed": config.seed,
                    "versions": {"trainer": __version__, "torch": torch.__version__},
                },
                checkpoints.every_s,
                checkpoints.keep,
                checkpoints.max_outage_s,
            )

    def resume(self) -> int:
        """Continue from the newest valid checkpoint, if there is one: how many steps are done.

        Raises:
            StorageError, CheckpointError: the storage does not answer, or no checkpoint is intact.
        """
        # every rank looks for itself, so that none waits in a collective while the storage is away ...
        mine, files = self._newest()
        name = [mine]
        if self._world_size > 1:
            torch.distributed.broadcast_object_list(name, src=0)  # ... and all take rank 0's
        if name[0] is None:
            return 0
        if name[0] != mine:
            files, _ = checkpoint.read(self._run, name[0])
        if not restore(from_files(files), self._network, self._optimizers, self._on, self._rank):
            torch.manual_seed(self._config.seed + self._rank + name[0].step)  # a rank that was not there before
        self.resumed |= {"step": name[0].step, "resumed_from": name[0].name}
        return name[0].step

    def _newest(self) -> tuple[Checkpoint | None, dict[str, bytes]]:
        began = time.monotonic()
        while True:
            try:
                which, files, _ = checkpoint.newest_valid(self._run, self._note_damage) or (None, {}, {})
            except OutageError:  # noqa: PERF203 # the loop is for trying again
                if time.monotonic() - began >= self._config.checkpoint.max_outage_s:
                    raise
                time.sleep(RETRY_EVERY_S)
            else:
                return which, files

    def _note_damage(self, which: Checkpoint, damage: str) -> None:
        self.resumed["damaged"].append(f"{which.name}: {damage}")

    def is_due(self) -> bool:
        """Whether it is time to save; rank 0 knows."""
        if self._saver is None:
            return False
        return self._saver.is_due() or (self._notice is not None and self._notice.last_save_is_due())

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

    def take_stall(self) -> dict[str, float]:
        """For how long saving held up training since the last call, as ``saving_seconds``."""
        stall, self._stall_s = self._stall_s, 0.0
        return {"saving_seconds": stall}

    def finish(self) -> None:
        """Return when the last state is saved.

        Raises:
            StorageError, CheckpointError: as `Saver.finish`.
        """
        if self._saver is not None:
            self._saver.finish()
