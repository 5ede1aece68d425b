"""Saving while training continues: rank 0 hands over copies of the state, and a thread commits them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainer.errors import CheckpointError, OutageError, StorageError, one_line
from trainer.storage import checkpoints, lease, store
from trainer.training.state import State, to_files


class HeldUp(NamedTuple):
    """Why the last state is not committed yet, and how long `AsyncSaver.finish` waits for it at most."""

    reason: str
    waits_s: float


class Committed(NamedTuple):
    """A checkpoint: the steps done, and when it was committed, in seconds since 1970."""

    step: int
    at: float


class _Snapshot(NamedTuple):
    """A state to commit."""

    step: int
    epoch: int
    state: State


@dataclass
class _Progress:
    """What the thread works on. Only the thread reads and writes it."""

    snapshot: _Snapshot | None = None
    scores: dict[int, float] = field(default_factory=dict)  # test accuracy by step
    committed: set[int] = field(default_factory=set)  # steps


class AsyncSaver:
    """Commits the newest state it was given, one at a time, and keeps the last few checkpoints and the best.

    `fence` is the number of the run's lease: when another process has claimed the run, nothing more is committed.
    `outage` says why nothing can be saved at the moment, or is None; `committed` is the newest checkpoint it made.
    """

    def __init__(self, run: str, fence: int, facts: Mapping[str, Any], keep: int, max_outage_s: float):
        self._run = run
        self._fence = fence
        self._facts = facts
        self._keep = keep
        self._max_outage_s = max_outage_s
        self.outage: str | None = None
        self.committed: Committed | None = None
        self._last_save_at = time.monotonic()
        self._commit_began_at = time.monotonic()
        # shared with the thread, under the lock of `_change`
        self._change = threading.Condition()
        self._waiting: _Snapshot | None = None
        self._new_scores: dict[int, float] = {}
        self._failure: CheckpointError | StorageError | None = None
        self._is_committing = False
        self._is_closed = False
        self._progress = _Progress()
        self._thread = threading.Thread(target=self._commit_all, name="save-checkpoints", daemon=True)
        self._thread.start()

    def is_due(self, every_s: float) -> bool:
        """Return whether the last call of `save` was at least `every_s` seconds ago."""
        return time.monotonic() - self._last_save_at >= every_s

    def save(self, step: int, epoch: int, state: State) -> None:
        """Take a state, made after `step` steps; it replaces one that still waits.

        Raises:
            CheckpointError, StorageError: earlier states could not be saved, so that continuing would risk too much.
        """
        with self._change:
            self._raise_failure()
            self._waiting = _Snapshot(step, epoch, state)
            self._last_save_at = time.monotonic()
            self._change.notify_all()

    def note_score(self, step: int, accuracy: float) -> None:
        """Take the test accuracy, 0..1, of the state after `step` steps: the best checkpoint is kept."""
        with self._change:
            self._new_scores[step] = accuracy
            self._change.notify_all()

    def held_up(self, quiet_s: float) -> HeldUp | None:
        """Return why the last state is still not committed after `quiet_s` seconds.

        Return None if it is committed, or if `finish` will raise.
        """
        with self._change:
            self._change.wait_for(lambda: self._is_done() or self.outage is not None, quiet_s)
            if self._is_done():
                return None
        reason = self.outage or f"storage: {self._run} has not taken the last checkpoint in {quiet_s:g} s."
        retries_end_in_s = max(0.0, self._commit_began_at + self._max_outage_s - time.monotonic())
        # the last try begins one pause after that at the latest, and its request has a deadline of its own
        return HeldUp(reason, retries_end_in_s + store.RETRY_EVERY_S + store.DEADLINE_S)

    def finish(self) -> None:
        """Return when the last state is committed.

        Raises:
            CheckpointError, StorageError: it could not be committed.
        """
        with self._change:
            self._change.wait_for(self._is_done)
            self._is_closed = True
            self._change.notify_all()
            self._raise_failure()

    def _is_done(self) -> bool:
        return self._failure is not None or not (self._is_committing or self._has_work())

    def _has_work(self) -> bool:
        return self._waiting is not None or bool(self._new_scores)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ── The thread ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _commit_all(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._is_closed or self._has_work())
                if not self._has_work():
                    return
                self._is_committing = True
            failure: CheckpointError | StorageError | None
            try:
                failure = self._commit_through_outage()
            except Exception as error:  # noqa: BLE001 # if the thread died silently, the run would never end
                failure = CheckpointError(f"A checkpoint could not be saved: {one_line(error)}")
            with self._change:
                self._failure = failure
                self._is_committing = False
                self._change.notify_all()
                if failure is not None:
                    return

    def _commit_through_outage(self) -> CheckpointError | StorageError | None:
        self._commit_began_at = time.monotonic()
        try:
            store.through_outage(self._commit, self._max_outage_s, self._note_outage)
        except OutageError as error:
            return OutageError(
                f"No checkpoint could be saved for {self._max_outage_s:.0f} s: {error.problem}", error.fix
            )
        except (CheckpointError, StorageError) as error:
            return error
        self.outage = None
        return None

    def _note_outage(self, error: OutageError) -> None:
        self.outage = str(error)

    def _commit(self) -> None:
        progress = self._progress
        with self._change:
            # also during an outage a newer state replaces an older one
            progress.snapshot = self._waiting or progress.snapshot
            self._waiting = None
            progress.scores |= self._new_scores
            self._new_scores = {}
        if not lease.is_mine(self._run, self._fence):
            raise CheckpointError(f"Another process has taken over {self._run}; this one stops")
        if progress.snapshot is not None:
            step, epoch, state = progress.snapshot
            if checkpoint := checkpoints.next_at(self._run, step, self._fence):
                checkpoints.commit(self._run, checkpoint, to_files(state), {**self._facts, "epoch": epoch})
            progress.committed.add(step)
            self.committed = Committed(step, time.time())
            progress.snapshot = None
        best = self._note_best()
        checkpoints.prune(self._run, self._keep, [] if best is None else [best.step])

    def _note_best(self) -> checkpoints.Best | None:
        """Write down the best committed checkpoint if it has changed, and return it."""
        known = checkpoints.best(self._run)
        candidates = [
            checkpoints.Best(step, accuracy)
            for step, accuracy in self._progress.scores.items()
            if step in self._progress.committed
        ]
        new = max(candidates, key=lambda candidate: candidate.test_accuracy, default=None)
        if new is None or (known is not None and new.test_accuracy <= known.test_accuracy):
            return known
        checkpoints.write_best(self._run, new)
        return new


class NullSaver:
    """Takes the place of an `AsyncSaver` on ranks above 0, which have nothing to commit."""

    outage: None = None
    committed: None = None

    def is_due(self, every_s: float) -> bool:  # noqa: ARG002 # as AsyncSaver
        """Return False: rank 0 decides."""
        return False

    def save(self, step: int, epoch: int, state: State) -> None:
        """Do nothing: the state is rank 0's to commit."""

    def note_score(self, step: int, accuracy: float) -> None:
        """Do nothing."""

    def held_up(self, quiet_s: float) -> HeldUp | None:  # noqa: ARG002 # as AsyncSaver
        """Return None: rank 0 knows."""
        return None

    def finish(self) -> None:
        """Do nothing."""
