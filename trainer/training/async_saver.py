"""Saving behind the training: rank 0 hands over copies of the state, and a thread commits them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import CheckpointError, OutageError, StorageError, one_line
from trainer.storage import checkpoints, lease, store
from trainer.training.state import State, to_files


class Saver:
    """Rank 0's: commits the newest state it was given, one at a time, and keeps the last few and the best.

    `fence` is the number of the run's lease: once another has claimed the run, nothing is committed any more. `outage`
    is why nothing can be saved at the moment, or None.
    """

    def __init__(self, run: str, fence: int, facts: Mapping[str, Any], keep: int, max_outage_s: float):
        self._run, self._fence, self._facts = run, fence, facts
        self._keep, self._max_outage_s = keep, max_outage_s
        self.outage: str | None = None
        self._given = self._began = time.monotonic()
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

    def held_up(self, quiet_s: float) -> tuple[str, float] | None:
        """Why the last state is still not committed after a moment, and how long `finish` waits for it at most.

        None if it is, or if `finish` will say why it cannot be.
        """
        with self._change:
            self._change.wait_for(lambda: self._is_done() or self.outage is not None, quiet_s)
            if self._is_done():
                return None
        why = self.outage or f"storage: {self._run} has not taken the last checkpoint in {quiet_s:g} s."
        left_s = self._began + self._max_outage_s - time.monotonic()
        return why, max(
            0.0, left_s
        ) + store.RETRY_EVERY_S + store.DEADLINE_S  # a try may begin just before that is over

    def finish(self) -> None:
        """Return when the last state is committed.

        Raises:
            CheckpointError, StorageError: it could not be.
        """
        with self._change:
            self._change.wait_for(self._is_done)
            self._over = True
            self._change.notify_all()
            self._raise_failure()

    def _is_done(self) -> bool:
        return self._failure is not None or not (self._busy or self._waiting or self._scores)

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
                failure = CheckpointError(f"A checkpoint could not be saved: {one_line(error)}.")
            with self._change:
                self._failure, self._busy = failure, False
                self._change.notify_all()
                if failure is not None:
                    return

    def _saved(self) -> CheckpointError | StorageError | None:
        self._began = time.monotonic()
        try:
            store.through_outage(self._try, self._max_outage_s, self._note_outage)
        except OutageError as error:
            return OutageError(f"{error} No checkpoint could be saved for {self._max_outage_s:.0f} s.")
        except (CheckpointError, StorageError) as error:
            return error
        self.outage = None
        return None

    def _note_outage(self, error: OutageError) -> None:
        self.outage = str(error)

    def _try(self) -> None:
        mine = self._mine
        with self._change:  # during an outage, too, a newer state takes the place of an older one
            mine.current, self._waiting = self._waiting or mine.current, None
            mine.scores, self._scores = mine.scores | self._scores, {}
        if not lease.is_mine(self._run, self._fence):
            raise CheckpointError(f"Another process has taken over {self._run}; this one stops.")
        if mine.current is not None:
            step, epoch, state = mine.current
            if which := checkpoints.next_at(self._run, step, self._fence):
                checkpoints.commit(self._run, which, to_files(state), {**self._facts, "epoch": epoch})
            mine.committed.add(step)
            mine.current = None
        best = self._note_best()
        checkpoints.prune(self._run, self._keep, [] if best is None else [best.step])

    def _note_best(self) -> checkpoints.Best | None:
        known = checkpoints.best(self._run)
        scored = [checkpoints.Best(step, score) for step, score in self._mine.scores.items()]
        saved = [each for each in scored if each.step in self._mine.committed]
        new = max(saved, key=lambda each: each.test_accuracy, default=None)
        if new is None or (known is not None and new.test_accuracy <= known.test_accuracy):
            return known
        checkpoints.note_best(self._run, new)
        return new


@dataclass
class _Mine:
    """What only the saving thread of a `Saver` works on."""

    current: tuple[int, int, State] | None = None
    scores: dict[int, float] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)
