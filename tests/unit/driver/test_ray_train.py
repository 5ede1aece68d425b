"""Everything that leans on Ray's private parts is in `driver/ray_train.py`: these tests name what it leans on."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import WorkerGroupError

from trainer.config import Config
from trainer.driver import ray_cluster, ray_train
from trainer.driver.recorder import Recorder
from trainer.driver.recovery import Recovery
from trainer.errors import TrainingError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")  # Ray's, of its own defaults

HELPERS = (DatasetsCallback, PlacementGroupCleanerCallback)


def made(tmp_path, workers=1, own_cluster=True):
    scaling = ScalingConfig(num_workers=workers)
    most = workers if isinstance(workers, int) else workers[1]
    return ray_train.trainer(
        most, Recovery(str(tmp_path)), own_cluster, train_loop_per_worker=lambda: None, scaling_config=scaling
    )


def test_ray_is_the_version_that_ray_train_py_was_written_for():
    assert version("ray") == ray_train.RAY_VERSION, (
        f"Ray {version('ray')} is installed, and trainer/driver/ray_train.py was written for {ray_train.RAY_VERSION}: "
        "read its private imports in the new version, run tests/faults, then change RAY_VERSION."
    )


def test_only_ray_train_py_imports_private_parts_of_ray():
    package = Path(ray_cluster.__file__).parents[1]
    users = {path.name for path in package.rglob("*.py") if "._internal" in path.read_text()}
    assert users == {"ray_train.py"}


def test_a_public_trainer_still_makes_the_helpers_that_are_left_out(tmp_path):
    callbacks = DataParallelTrainer(lambda: None, scaling_config=ScalingConfig())._create_default_callbacks()
    assert {type(callback) for callback in callbacks} >= set(HELPERS)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("own_cluster", "helpers"), [(True, set()), (False, set(HELPERS))])
def test_helper_processes_run_only_on_a_shared_cluster(tmp_path, workers, own_cluster, helpers):
    callbacks = made(tmp_path, workers, own_cluster)._create_default_callbacks()
    assert {type(callback) for callback in callbacks if isinstance(callback, HELPERS)} == helpers


def parts_of_the_controller(monkeypatch, trainer, workers):
    parts = {}
    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", lambda _, **given: parts.update(given))
    trainer._initialize_and_run_controller(scaling_policy=create_scaling_policy(ScalingConfig(num_workers=workers)))
    return parts


def test_a_fixed_number_of_local_workers_asks_no_autoscaler(monkeypatch, tmp_path):
    policy = parts_of_the_controller(monkeypatch, made(tmp_path), 2)["scaling_policy"]
    assert type(policy) is ray_train.FixedLocalWorkers
    policy.after_controller_start(None)  # neither needs a running Ray
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


@pytest.mark.parametrize(("workers", "own_cluster"), [((1, 2), True), ((1, 2), False)])
def test_an_elastic_run_keeps_rays_own_scaling_policy(monkeypatch, tmp_path, workers, own_cluster):
    parts = parts_of_the_controller(monkeypatch, made(tmp_path, own_cluster=own_cluster), workers)
    assert type(parts["scaling_policy"]) is ElasticScalingPolicy


def test_recovery_decides_about_failures(monkeypatch, tmp_path):
    policy = parts_of_the_controller(monkeypatch, made(tmp_path), 1)["failure_policy"]
    death = WorkerHealthCheckFailedError("the actor died", failure=RuntimeError("gone"))
    assert policy.make_decision(WorkerGroupError("failed", {0: death})) is FailureDecision.RETRY
    own = TrainingError("it cannot work")
    assert policy.make_decision(WorkerGroupError("failed", {0: own})) is FailureDecision.RAISE


def test_each_worker_gets_the_number_of_its_attempt(monkeypatch, tmp_path):
    monkeypatch.delenv(ray_train.ATTEMPT, raising=False)
    recorder = Recorder(tmp_path, Config(), attempt=3)
    ray_train.AttemptNumber(recorder).after_init_train_context()
    assert os.environ.pop(ray_train.ATTEMPT) == "3"


def test_ray_hands_our_timings_to_controller_and_workers(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in (*ray_cluster.TIMINGS, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "7")  # what a user sets wins
    with monkeypatch.context() as patch:
        for name in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"):
            patch.setenv(name, "")
            patch.delenv(name)
        ray_cluster.set_timings()
        handed = get_env_vars_to_propagate()
    assert handed.items() >= {**ray_cluster.TIMINGS, "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "7"}.items()


def test_a_workers_output_has_none_of_its_reports(caplog):
    from ray.train.v2._internal.execution import context

    assert "Reporting training result" in Path(context.__file__).read_text()  # by this logger, in this version
    before = context.logger.level
    ray_train.print_no_reports()
    context.logger.info("Reporting training result 1: ...")
    context.logger.warning("this is for people")
    context.logger.setLevel(before)
    assert [record.message for record in caplog.records] == ["this is for people"]
