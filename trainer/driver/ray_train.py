"""Ray Train on a cluster that lives and dies with this run: without the helpers that only a shared cluster needs.

Each helper is a process that imports Ray Train for two seconds, on a laptop's few cores while the run waits for its
first step. Left out: the cleaner of placement groups that outlive a controller, the manager of Ray Data sets, and, for
a fixed number of workers, the coordinator that asks an autoscaler for room (docs/decisions/0003).
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LocalWorkers(FixedScalingPolicy):
    """A fixed number of workers, on a cluster that cannot grow: nobody is asked for room."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass


class LocalRun:
    """Mixed into one of Ray's trainers, it runs there without the helpers."""

    def _create_default_callbacks(self) -> list[Any]:
        helpers = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc] # of the trainer it is mixed into
        return [each for each in callbacks if not isinstance(each, helpers)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if type(parts["scaling_policy"]) is FixedScalingPolicy:
            parts["scaling_policy"] = LocalWorkers(parts["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc] # as above


def localised(trainer: type[DataParallelTrainer]) -> type[DataParallelTrainer]:
    """A trainer class as it should be on a cluster of the run's own."""
    return type(trainer.__name__, (LocalRun, trainer), {})
