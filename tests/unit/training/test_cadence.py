from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray.train
import torch

from trainer import resolve
from trainer.training import preemption
from trainer.training.cadence import AGREE_EVERY_STEPS, Cadence, Due
from trainer.training.job import Job
from trainer.training.worker import Worker

WORKER = Worker(0, 1, torch.device("cpu"), torch.autocast("cpu", enabled=False), {})


class Clocks:
    """Stands for checkpointer and reporter: what is due is set by the test."""

    def __init__(self):
        self.save_age_s = 0.0
        self.report = False

    def checkpointer(self):
        return SimpleNamespace(is_due=lambda every_s: self.save_age_s >= every_s)

    def reporter(self):
        return SimpleNamespace(is_due=lambda: self.report)


@pytest.fixture
def clocks():
    return Clocks()


def cadence(clocks, worker=WORKER, preemptible=False):
    config = resolve.load("fast", None, ["checkpoint.every_s=30"])
    job = Job(config, None, "r", 1, 1, preemptible, lambda batch: batch)
    return Cadence(job, worker, clocks.checkpointer(), clocks.reporter())


def test_nothing_is_due_before_its_time(clocks):
    assert cadence(clocks).due(1) == Due(save=False, report=False)


def test_saves_and_reports_are_due_by_their_own_clocks(clocks):
    due = cadence(clocks).due
    clocks.report = True
    assert due(1) == Due(save=False, report=True)
    clocks.save_age_s = 30.0
    assert due(2) == Due(save=True, report=True)


def test_several_workers_agree_only_every_few_steps(clocks, monkeypatch):
    monkeypatch.setattr(Worker, "flags_of_rank_zero", lambda self, *flags: flags)
    clocks.report = True
    due = cadence(clocks, replace(WORKER, world_size=2)).due
    reported = [done for done in range(1, 31) if due(done).report]
    assert reported == [AGREE_EVERY_STEPS, 2 * AGREE_EVERY_STEPS, 3 * AGREE_EVERY_STEPS]


def test_a_preemption_notice_saves_at_once_and_then_more_often(clocks, monkeypatch):
    answer = [None]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: answer[0])
    monkeypatch.setattr(preemption, "ASK_EVERY_S", 0.0)
    due = cadence(clocks, preemptible=True).due
    assert not due(1).save
    answer[0] = SimpleNamespace(deadline_ms=1000)
    assert due(2).save
    assert not due(3).save
    clocks.save_age_s = preemption.SAVE_EVERY_S
    assert due(4).save
    answer[0] = None
    due(5)
    assert not due(6).save
