"""Everything that leans on private parts of Ray Train: the only place to read when Ray's version changes.

Ray Train 2.60 has no public way to decide about retries by cause, to leave out the helper processes of a shared
cluster, to give each worker the number of its attempt, or to stop at once. `RunTrainer` does these things to Ray's own
trainers; `tests/unit/driver/test_ray_train.py` names the version they were written for.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from trainer.driver.ray_errors import causes, failures_of
from trainer.driver.recorder import Recorder
from trainer.driver.recovery import Recovery

RAY_VERSION = "2.60.0"
ABORTS_WITHIN_S = 1.5
ATTEMPT = "TRAINER_ATTEMPT"  # in the environment of a worker: the number of its attempt


class FailurePolicy(DefaultFailurePolicy):
    """Lets `Recovery` decide whether the workers of a run are restarted."""

    def __init__(self, recovery: Recovery):
        super().__init__(FailureConfig(max_failures=-1))
        self._recovery = recovery

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Restart the workers, or end the run with this error."""
        errors = causes(failures_of(training_failed_error))
        if self._recovery.retries(errors, preempted=_is_preemption_failure(training_failed_error)):
            return super().make_decision(training_failed_error)
        return FailureDecision.RAISE


class FixedLocalWorkers(FixedScalingPolicy):
    """A fixed number of workers on a cluster that cannot grow: no autoscaler is asked for resources."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass


class AttemptNumber(WorkerCallback):
    """Puts the attempt number into each worker's environment.

    Ray Train copies it from the controller to each worker as that starts, so the recorder's number is current.
    """

    def __init__(self, recorder: Recorder):
        self._recorder = recorder

    def after_init_train_context(self) -> None:
        """Set it, in the worker."""
        os.environ[ATTEMPT] = str(self._recorder.next_attempt)


class RunTrainer:
    """Mixed into one of Ray's trainers: our failure policy, and no helper processes on a cluster of the run's own.

    Each helper is a process that imports Ray Train for two seconds, on a laptop's few cores, while the run waits for
    its first step (docs/decisions/0003). Left out: the cleaner of placement groups that outlive a controller, the
    manager of Ray Data sets, and, for a fixed number of workers, the coordinator that asks an autoscaler for room.
    """

    recovery: Recovery
    own_cluster: bool
    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        """Let Ctrl-C raise KeyboardInterrupt at once: Ray's own handler waits for a controller that may be waiting."""
        self.controller = controller
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def abort(self) -> None:
        """End the controller and its workers; one that does not answer is killed."""
        if self.controller is None:
            return
        import ray

        ray.wait([self.controller.abort.remote()], timeout=ABORTS_WITHIN_S)
        ray.kill(self.controller)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc] # of the trainer it is mixed into
        if not self.own_cluster:
            return callbacks
        # imported in the driver only: they take a worker a quarter of a second
        from ray.train.v2._internal.callbacks import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

        helpers = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in callbacks if not isinstance(callback, helpers)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["failure_policy"] = FailurePolicy(self.recovery)
        if self.own_cluster and type(parts["scaling_policy"]) is FixedScalingPolicy:
            parts["scaling_policy"] = FixedLocalWorkers(parts["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc] # as above


def print_no_reports() -> None:
    """Let this worker's stderr be ours: Ray Train would print each report there, with the pixels of all mistakes."""
    from ray.train.v2._internal.execution import context

    context.logger.setLevel(logging.WARNING)


def trainer(workers: int, recovery: Recovery, own_cluster: bool, **arguments: Any) -> Any:
    """Return Ray Train's trainer for so many workers, with our policies.

    One worker needs no process group, so no process but the worker imports PyTorch: seconds less to the first step.
    """
    base: Any
    if workers == 1:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        base = DataParallelTrainer
    else:
        from ray.train.torch import TorchTrainer

        base = TorchTrainer

    class Trainer(RunTrainer, base):  # type: ignore[misc] # the base is chosen above
        pass

    made = Trainer(**arguments)
    made.recovery = recovery
    made.own_cluster = own_cluster
    return made
