import json

import pytest

from trainer import resolve
from trainer.errors import TrainingError
from trainer.observe.summary import Clock, seconds_by_part, summarise
from trainer.storage import layout
from trainer.storage.record import Record
from trainer.training import device

CONFIG = resolve.load("seed")


@pytest.fixture
def record(tmp_path):
    made = Record(tmp_path / "r1")
    made.create(CONFIG, {"ray": "2.60.0"})
    return made


def test_the_score_of_an_earlier_process_is_not_this_ones(record):
    point = {"time": 1.0, "attempt": 1, "seconds": 1.0, "test_accuracy": 0.9, "test_loss": 0.3, "epoch": 1, "step": 5}
    record.add_point(point)
    assert summarise(record, Clock(began=device.process_began()), "failed", TrainingError("x"))["test_accuracy"] is None


def test_the_parts_of_the_time_add_up_to_the_wall_time(record):
    clock = Clock(began=1000.0, data_seconds=0.5)
    lines = [
        {"time": 1010.1, "event": "training_started", "started_at": 1010.0, "data_seconds": 0.7},
        {"time": 1030.1, "event": "training_finished", "finished_at": 1030.0},
    ]
    record.file(layout.EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    record.add_point({"time": 1020.0, "evaluation_seconds": 2.5, "last_save_seconds": 1.5})
    record.add_point({"time": 900.0, "evaluation_seconds": 99.0})  # of an earlier process: not this wall time
    parts = seconds_by_part(record, clock, 1033.0)
    assert parts == {
        "start_up": 8.8,
        "data": 1.2,
        "training": 16.0,
        "evaluation": 2.5,
        "shutdown": 4.5,
        "wall": 33.0,
    }
    assert sum(parts.values()) == pytest.approx(2 * parts["wall"])


def test_a_failed_run_has_its_error_and_exit_code_in_its_result(record):
    result = summarise(
        record, Clock(began=device.process_began()), "failed", TrainingError("A worker failed: out of luck.")
    )
    assert (result["status"], result["exit_code"], result["error"]) == ("failed", 6, "A worker failed: out of luck.")
    assert result["test_accuracy"] is None


def test_the_facts_of_an_error_are_in_the_result(record):
    error = TrainingError("a worker was lost", "start it again", retry=True)
    result = summarise(record, Clock(began=0.0), "failed", error)
    facts = {key: result[key] for key in ("exit_code", "error", "problem", "fix", "retry")}
    assert facts == error.facts()


def test_a_bug_may_be_retried(record):
    result = summarise(record, Clock(began=0.0), "failed", ValueError("oops"))
    assert (result["exit_code"], result["problem"], result["retry"]) == (1, "ValueError: oops", True)


def test_a_finished_run_has_no_error(record):
    result = summarise(record, Clock(began=0.0), "finished", None)
    assert result["exit_code"] == 0
    assert not {"error", "problem", "fix", "retry"} & set(result)
