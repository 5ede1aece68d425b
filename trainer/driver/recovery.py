"""When the workers of a run fail: restart them from the newest checkpoint, unless that cannot help.

By default Ray Train gives up at the first failure, or with a number retries that often whatever the cause. Here an
error that the trainer itself raised ends the run at once (a non-finite loss only the second time, see
`skipped_steps.py`), a preempted node never does, and anything else does if it happens again and again without progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainer.driver.ray_errors import is_death
from trainer.errors import DivergedError, StorageError, TrainerError
from trainer.storage import checkpoints, skipped_steps

# In a row, without a newer checkpoint in between. An error that was raised will mostly be raised again; a death is
# mostly bad luck.
MAX_ERRORS_WITHOUT_PROGRESS = 3
MAX_DEATHS_WITHOUT_PROGRESS = 20


class Recovery:
    """Decides for the run at the URI `run`, in Ray Train's controller; it calls `note_preemption` for each one."""

    def __init__(self, run: str, note_preemption: Callable[[], None] = lambda: None):
        self._run = run
        self._note_preemption = note_preemption
        self._furthest_step = -1
        self._errors = 0
        self._deaths = 0

    def retries(self, errors: Mapping[int, Exception], preempted: bool) -> bool:
        """Whether to restart the workers after these errors, by rank."""
        raised = list(errors.values())
        if any(isinstance(error, TrainerError) for error in raised):
            return self._rolls_back(raised)
        if preempted:
            self._note_preemption()
        if not raised or preempted:
            return True
        try:
            self._forget_failures_before_progress()
        except StorageError:  # an outage says nothing about progress, and must not end the run
            return True
        if any(map(is_death, raised)):  # the other ranks raise because of it
            self._deaths += 1
            return self._deaths <= MAX_DEATHS_WITHOUT_PROGRESS
        self._errors += 1
        return self._errors <= MAX_ERRORS_WITHOUT_PROGRESS

    def _rolls_back(self, raised: list[Exception]) -> bool:
        diverged = [error.step for error in raised if isinstance(error, DivergedError)]
        if not diverged:
            return False
        try:
            return skipped_steps.write(self._run, max(diverged))
        except StorageError:
            return False

    def _forget_failures_before_progress(self) -> None:
        committed = checkpoints.list_checkpoints(self._run).committed
        step = max((checkpoint.step for checkpoint in committed), default=0)
        if step > self._furthest_step:
            self._furthest_step = step
            self._errors = 0
            self._deaths = 0
