import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from trainer.driver import launch
from trainer.driver.ray_train import LocalWorkers, localised

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")  # Ray's, of its own defaults

HELPERS = (DatasetsCallback, PlacementGroupCleanerCallback)


def helpers(trainer):
    made = trainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))._create_default_callbacks()
    return {type(each) for each in made if isinstance(each, HELPERS)}


def policy_handed_to_the_controller(monkeypatch, workers):
    handed = {}
    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", lambda _, **parts: handed.update(parts))
    scaling = ScalingConfig(num_workers=workers)
    trainer = localised(DataParallelTrainer)(lambda: None, scaling_config=scaling)
    trainer._initialize_and_run_controller(scaling_policy=create_scaling_policy(scaling))
    return handed["scaling_policy"]


def test_the_helpers_of_a_shared_cluster_are_left_out():
    assert helpers(DataParallelTrainer) == set(HELPERS)
    assert helpers(localised(DataParallelTrainer)) == set()


def test_a_fixed_number_of_workers_asks_no_autoscaler(monkeypatch):
    policy = policy_handed_to_the_controller(monkeypatch, 2)
    assert type(policy) is LocalWorkers
    policy.after_controller_start(None)  # neither needs a running Ray
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_an_elastic_run_keeps_rays_own_policy(monkeypatch):
    assert type(policy_handed_to_the_controller(monkeypatch, (1, 2))) is ElasticScalingPolicy


@pytest.mark.parametrize("workers", [1, 2])
def test_on_another_cluster_nothing_is_left_out(monkeypatch, workers):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert helpers(launch._trainer_class(workers)) == set()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert helpers(launch._trainer_class(workers)) == set(HELPERS)
