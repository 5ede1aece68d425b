"""Saving behind the training: a worker copies its state between two steps, and a thread commits the copy."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import nn

from trainer import __version__, checkpoint, fetch, lease, rollback
from trainer.checkpoint import Checkpoint
from trainer.config import Config
from trainer.errors import CheckpointError, OutageError, StorageError, in_a_line
from trainer.preemption import SAVE_EVERY_S, Notice
from trainer.state import State, capture, from_files, restore, to_files

RETRY_EVERY_S = 2.0


class Saver:
    """Rank 0's: commits the newest state it was given, one at a time, and keeps the last few and the best.

    `fence` is the number of the run's lease: once another has claimed the run, nothing is committed any more. `outage`
    is why nothing can be saved at the moment, or None.
    """

    def __init__(self, run: str, fence: int, facts: Mapping[str, Any], keep: int, max_outage_s: float):
        self._run, self._fence, self._facts = run, fence, facts
        self._keep, self._max_outage_s = keep, max_outage_s
        self.outage: str | None = None
        self._given = time.monotonic()
        self._waiting: tuple[int, int, State] | None = None
        self._scores: dict[int, float] = {}  # that came since the thread last looked
        self._failure: CheckpointError | StorageError | None = None
        self._change = threading.Condition()
        self._busy = self._over = False
        self._mine = _Mine()
        self._thread = threading.Thread(target=self._commit_all, name="save-checkpoints", daemon=True)
        self._thread.start()

    def is_due(self, every_s: float) -> bool:
        """Whether it is time to save again, if that is to be every so many seconds."""
        return time.monotonic() - self._given >= every_s

    def save(self, step: int, epoch: int, state: State) -> None:
        """Take a state, made after `step` steps, in place of one that still waits.

        Raises:
            CheckpointError, StorageError: earlier ones could not be saved, and training on would risk too much.
        """
        with self._change:
            self._raise_failure()
            self._waiting, self._given = (step, epoch, state), time.monotonic()
            self._change.notify_all()

    def score(self, step: int, accuracy: float) -> None:
        """Take the test accuracy, 0..1, of the state after `step` steps: the best one is kept."""
        with self._change:
            self._scores[step] = accuracy
            self._change.notify_all()

    def finish(self) -> None:
        """Return when the last state is committed.

        Raises:
            CheckpointError, StorageError: it could not be.
        """
        with self._change:
            self._change.wait_for(lambda: self._failure or not (self._busy or self._waiting or self._scores))
            self._over = True
            self._change.notify_all()
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _commit_all(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._over or self._waiting or self._scores)
                if not (self._waiting or self._scores):
                    return
                self._busy = True
            failure: CheckpointError | StorageError | None
            try:
                failure = self._saved()
            except Exception as error:  # noqa: BLE001 # a thread that died in silence would hold up the run's end for ever
                failure = CheckpointError(f"A checkpoint could not be saved: {in_a_line(error)}.")
            with self._change:
                self._failure, self._busy = failure, False
                self._change.notify_all()
                if failure is not None:
                    return

    def _saved(self) -> CheckpointError | StorageError | None:
        began = time.monotonic()
        while True:
            try:
                self._try()
            except OutageError as error:  # noqa: PERF203 # the loop is for trying again
                self.outage = str(error)
                if time.monotonic() - began >= self._max_outage_s:
                    return OutageError(f"{error} No checkpoint could be saved for {self._max_outage_s:.0f} s.")
                time.sleep(RETRY_EVERY_S)
            except (CheckpointError, StorageError) as error:
                return error
            else:
                self.outage = None
                return None

    def _try(self) -> None:
        mine = self._mine
        with self._change:  # during an outage, too, a newer state takes the place of an older one
            mine.current, self._waiting = self._waiting or mine.current, None
            mine.scores, self._scores = mine.scores | self._scores, {}
        if not lease.is_mine(self._run, self._fence):
            raise CheckpointError(f"Another process has taken over {self._run}; this one stops.")
        if mine.current is not None:
            step, epoch, state = mine.current
            if which := checkpoint.next_at(self._run, step, self._fence):
                checkpoint.commit(self._run, which, to_files(state), {**self._facts, "epoch": epoch})
            mine.committed.add(step)
            mine.current = None
        best = self._note_best()
        checkpoint.prune(self._run, self._keep, [] if best is None else [best.step])

    def _note_best(self) -> checkpoint.Best | None:
        known = checkpoint.best(self._run)
        scored = [checkpoint.Best(step, score) for step, score in self._mine.scores.items()]
        saved = [each for each in scored if each.step in self._mine.committed]
        new = max(saved, key=lambda each: each.test_accuracy, default=None)
        if new is None or (known is not None and new.test_accuracy <= known.test_accuracy):
            return known
        checkpoint.note_best(self._run, new)
        return new


@dataclass
class _Mine:
    """What only the saving thread of a `Saver` works on."""

    current: tuple[int, int, State] | None = None
    scores: dict[int, float] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)


class Checkpoints:
    """A run's checkpoints as one rank of its training sees them; `settings` as for `loop.train`.

    `resumed` says where training began: ``step``, ``resumed_from`` (a checkpoint's name, or None), ``damaged``, a
    sentence for each checkpoint that was put aside, and ``left_out``, the first and last of the steps ahead that are
    left out, or None.
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
        self.resumed: dict[str, Any] = {"step": 0, "resumed_from": None, "damaged": [], "left_out": None}
        self._left_out = range(0)
        self._stall_s = 0.0
        self._notice = Notice() if settings["preemptible"] else None
        self._saver: Saver | None = None
        if rank == 0:
            checkpoints = config.checkpoint
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
                checkpoints.keep,
                checkpoints.max_outage_s,
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
            files, _ = checkpoint.read(self._run, chosen)
        if not restore(from_files(files), self._network, self._optimizers, self._on, self._rank):
            torch.manual_seed(self._config.seed + self._rank + chosen.step)  # a rank that was not there before
        self.resumed |= {"step": chosen.step, "resumed_from": chosen.name}
        if chosen.step < self._left_out.stop:
            self.resumed["left_out"] = [self._left_out.start + 1, self._left_out.stop]
        return int(chosen.step)

    def _newest(self) -> tuple[Checkpoint | None, dict[str, bytes], range]:
        began = time.monotonic()
        while True:
            try:
                which, files, _ = checkpoint.newest_valid(self._run, self._note_damage) or (None, {}, {})
                left_out = rollback.left_out(self._run)
            except OutageError:  # noqa: PERF203 # the loop is for trying again
                if time.monotonic() - began >= self._config.checkpoint.max_outage_s:
                    raise
                time.sleep(RETRY_EVERY_S)
            else:
                return which, files, left_out

    def leave_out(self, done: int) -> bool:
        """Whether the step after `done` steps is not to be taken: its batch had led to a loss that is no number."""
        return done in self._left_out

    def _note_damage(self, which: Checkpoint, damage: str) -> None:
        self.resumed["damaged"].append(f"{which.name}: {damage}")

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

    def finish(self) -> None:
        """Return when the last state is saved.

        Raises:
            StorageError, CheckpointError: as `Saver.finish`.
        """
        if self._saver is not None:
            self._saver.finish()
