from types import SimpleNamespace

import pytest
import ray.train

from trainer.driver import ray_train, worker
from trainer.errors import ResourceError
from trainer.storage import logs
from trainer.training import loop


@pytest.fixture(autouse=True)
def rank_one(monkeypatch):
    context = SimpleNamespace(get_world_rank=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)


def test_the_loop_gets_the_number_of_its_attempt(monkeypatch, tmp_path):
    monkeypatch.setenv(ray_train.ATTEMPT, "3")
    monkeypatch.setattr(loop, "train", lambda settings: settings)
    assert worker.train({"run": str(tmp_path)}) == {"run": str(tmp_path), "attempt": 3}


def test_what_a_worker_prints_is_kept_by_its_attempt_and_rank(monkeypatch, tmp_path):
    (tmp_path / "out").write_text("as Ray redirects it\n")
    monkeypatch.setenv(ray_train.ATTEMPT, "3")
    monkeypatch.setattr(loop, "train", lambda settings: settings)
    monkeypatch.setattr(logs, "own_outputs", lambda **_: {"out": tmp_path / "out"})
    worker.train({"run": str(tmp_path / "r1")})
    assert logs.lines(str(tmp_path / "r1"), "worker-1", attempt=3) == ["as Ray redirects it"]


def test_a_worker_that_runs_out_of_memory_says_so(monkeypatch, tmp_path):
    def eat(settings):
        raise MemoryError

    monkeypatch.setenv(ray_train.ATTEMPT, "1")
    monkeypatch.setattr(loop, "train", eat)
    with pytest.raises(ResourceError, match="memory"):
        worker.train({"run": str(tmp_path)})
