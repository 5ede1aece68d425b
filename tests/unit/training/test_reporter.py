import math

import pytest
import ray.train
import torch

from trainer import resolve
from trainer.errors import DivergedError
from trainer.training import optimizer
from trainer.training.checkpointer import Resumed
from trainer.training.evaluate import Scores
from trainer.training.reporter import Reporter
from trainer.training.worker import Worker

CONFIG = resolve.load("fast", None, ["report_every_s=1"])
FACTS = {"device": "cpu", "precision": "fp32", "precision_reason": "", "threads": 1, "process_began_at": 1.0}
WORKER = Worker(0, 1, torch.device("cpu"), torch.autocast("cpu", enabled=False), FACTS)
NOT_SAVING = {"saving_seconds": 0.0, "outage": None}
SCORES = Scores(torch.tensor(5.0, dtype=torch.float64), torch.eye(10, dtype=torch.int64))


@pytest.fixture
def sent(monkeypatch):
    """The reports that Ray Train received."""
    reports = []
    monkeypatch.setattr(ray.train, "report", reports.append)
    return reports


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; its only item is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr("trainer.training.reporter.time.perf_counter", lambda: now[0])
    return now


def test_the_ready_report_says_where_training_begins(sent, clock):
    reporter = Reporter(CONFIG, WORKER)
    with reporter.timed("data"):
        clock[0] += 3
    reporter.ready(Resumed(7, "step-00000007-0001", range(7, 9), [8, 9], ["bad"], ["cut off"]))
    (report,) = sent
    assert report.pop("time") >= report.pop("entered_at")
    assert report == {
        **FACTS,
        "phase": "ready",
        "data_seconds": 3.0,
        "step": 7,
        "resumed_from": "step-00000007-0001",
        "left_out": [8, 9],
        "damaged": ["bad"],
        "unfinished": ["cut off"],
    }


def test_an_interval_sums_loss_and_samples_and_then_starts_again(clock):
    reporter = Reporter(CONFIG, WORKER)
    reporter.add(torch.tensor(0.5), 4)
    reporter.add(torch.tensor(0.25), 2)
    clock[0] += 2
    trained = reporter.take(1, 9, {"saving_seconds": 0.1, "outage": "away"})
    assert trained == {
        "epoch": 1,
        "step": 9,
        "lr": optimizer.schedule(CONFIG.optimizer, 8, CONFIG.total_steps),
        "loss_sum": 2.5,
        "samples": 6,
        "seconds": 2.0,
        "saving_seconds": 0.1,
        "outage": "away",
    }
    again = reporter.take(1, 9, NOT_SAVING)
    assert (again["loss_sum"], again["samples"], again["seconds"]) == (0.0, 0, 0.0)


def test_a_report_is_due_after_the_configs_seconds(clock):
    reporter = Reporter(CONFIG, WORKER)
    assert not reporter.is_due()
    clock[0] += 1
    assert reporter.is_due()
    reporter.take(1, 1, NOT_SAVING)
    assert not reporter.is_due()


def test_take_refuses_a_loss_that_is_not_finite():
    reporter = Reporter(CONFIG, WORKER)
    reporter.add(torch.tensor(math.nan), 4)
    with pytest.raises(DivergedError, match="The loss became nan in epoch 1, by step 9"):
        reporter.take(1, 9, NOT_SAVING)


def test_progress_and_epochs_are_reported_by_phase(sent, clock):
    reporter = Reporter(CONFIG, WORKER)
    trained = reporter.take(1, 9, NOT_SAVING)
    reporter.progress(trained)
    with reporter.timed("evaluation"):
        clock[0] += 4
    reporter.epoch(trained, SCORES)
    progress, epoch = sent
    assert progress == {**trained, "phase": "progress"}
    del epoch["time"]
    expected = {"test_loss": 0.5, "test_accuracy": 1.0, "evaluation_seconds": 4.0}
    assert epoch == {**trained, "phase": "epoch", **expected}


def test_time_between_epochs_is_not_training_time(sent, clock):
    reporter = Reporter(CONFIG, WORKER)
    trained = reporter.take(1, 9, NOT_SAVING)
    with reporter.timed("evaluation"):
        clock[0] += 4
    reporter.epoch(trained, SCORES)
    clock[0] += 1
    assert reporter.take(2, 10, NOT_SAVING)["seconds"] == 1.0


def test_a_hold_up_is_reported_as_saving(sent):
    Reporter(CONFIG, WORKER).held_up({"outage": "away", "waits_s": 60.0})
    assert sent == [{"phase": "saving", "outage": "away", "waits_s": 60.0}]


def test_the_final_report_has_the_confusion_matrix_and_the_weights(sent):
    reporter = Reporter(CONFIG, WORKER)
    with reporter.timed("evaluation"):
        pass
    trained = reporter.take(4, 9, {"saving_seconds": 0.0, "outage": "away"})
    last = reporter.final(trained, SCORES, [], {"weights": {"size": 3}, "last_save_seconds": 0.5})
    (report,) = sent
    assert report["phase"] == "epoch"
    assert report["outage"] is None  # everything is saved
    assert report["confusion"] == SCORES.confusion.tolist()
    assert (report["mistakes"], report["weights"], report["last_save_seconds"]) == ([], {"size": 3}, 0.5)
    assert last == {"epoch": 4, "step": 9, "test_loss": 0.5, "test_accuracy": 1.0}
