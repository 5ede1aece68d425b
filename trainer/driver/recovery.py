"""When the workers of a run fail: start them again from the newest checkpoint, unless that cannot help.

Ray Train would by default give up at the first failure, or with a number try so often whatever the cause. Here a cause
that the trainer itself has a sentence for ends the run at once (a loss that is no number only the second time, see
`rollback.py`), a lost node never does, and anything else does if it comes again and again without the run getting any
further.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from trainer.driver.ray_errors import causes, is_death
from trainer.errors import DivergedError, StorageError, TrainerError
from trainer.storage import checkpoints, skipped_steps

# In a row, with no newer checkpoint between them. What raises will mostly raise again; a death is mostly bad luck.
RAISED_IN_VAIN = 3
DIED_IN_VAIN = 20


class Recovery(DefaultFailurePolicy):
    """Decides for the run at the URI `run`."""

    def __init__(self, run: str):
        super().__init__(FailureConfig(max_failures=-1))
        self._run = run
        self._furthest = -1
        self._in_vain = {"raised": 0, "died": 0}

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Try again, or end the run with this error."""
        raised = list(causes(training_failed_error).values())
        if any(isinstance(cause, TrainerError) for cause in raised):
            if not self._goes_back(raised):
                return FailureDecision.RAISE
            return super().make_decision(training_failed_error)
        if raised and not _is_preemption_failure(training_failed_error):
            died = any(map(is_death, raised))  # the others raise because of it
            if self._is_in_vain("died" if died else "raised", DIED_IN_VAIN if died else RAISED_IN_VAIN):
                return FailureDecision.RAISE
        return super().make_decision(training_failed_error)

    def _goes_back(self, raised: list[Exception]) -> bool:
        diverged = [cause.step for cause in raised if isinstance(cause, DivergedError)]
        try:
            return bool(diverged) and skipped_steps.begin(self._run, max(diverged))
        except StorageError:
            return False

    def _is_in_vain(self, how: str, most: int) -> bool:
        try:
            step = max((each.step for each in checkpoints.look(self._run).committed), default=0)
        except StorageError:
            return False
        if step > self._furthest:
            self._furthest, self._in_vain = step, {"raised": 0, "died": 0}
        self._in_vain[how] += 1
        return self._in_vain[how] > most


def recovering(trainer: type[DataParallelTrainer], run: str) -> type[DataParallelTrainer]:
    """A trainer class whose failures are decided on by `Recovery`."""

    usual: Any = trainer._initialize_and_run_controller

    def _initialize_and_run_controller(self: Any, **parts: Any) -> Any:
        return usual(self, **{**parts, "failure_policy": Recovery(run)})

    return type(trainer.__name__, (trainer,), {"_initialize_and_run_controller": _initialize_and_run_controller})
