import pytest

from trainer.driver import ray_train, worker
from trainer.errors import ResourceError
from trainer.training import loop


def test_the_loop_gets_the_number_of_its_attempt(monkeypatch):
    monkeypatch.setenv(ray_train.ATTEMPT, "3")
    monkeypatch.setattr(loop, "train", lambda settings: settings)
    assert worker.train({"run": "r"}) == {"run": "r", "attempt": 3}


def test_a_worker_that_runs_out_of_memory_says_so(monkeypatch):
    def eat(settings):
        raise MemoryError

    monkeypatch.setenv(ray_train.ATTEMPT, "1")
    monkeypatch.setattr(loop, "train", eat)
    with pytest.raises(ResourceError, match="memory"):
        worker.train({})
