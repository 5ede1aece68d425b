import platform
from types import SimpleNamespace

import pytest
import ray.train
import torch

from trainer import resolve
from trainer.training import device
from trainer.training.worker import Worker


@pytest.fixture
def worker(monkeypatch):
    """A worker on the CPU, joined with a mocked context of Ray Train."""
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    return Worker.join(resolve.load("fast", None, ["precision=bf16"]))


def test_a_worker_takes_rank_and_device_from_ray_and_the_config(worker):
    assert (worker.rank, worker.world_size, worker.device) == (0, 1, torch.device("cpu"))


def test_facts_name_what_the_worker_computes_on(worker):
    assert worker.facts == {
        "host": platform.node(),
        "device": "cpu",
        "precision": "bf16",
        "precision_reason": "set in the config",
        "threads": torch.get_num_threads(),
        "process_began_at": pytest.approx(device.process_began(), abs=0.1),
        "pod": None,
        "outputs": worker.facts["outputs"],  # none if this test's output is a pipe
    }


def test_autocast_computes_in_the_configs_precision(worker):
    with worker.autocast:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_single_worker_agrees_with_itself(worker):
    assert worker.flags_of_rank_zero(True, False) == (True, False)
    assert worker.object_of_rank_zero({"step": 3}) == {"step": 3}
