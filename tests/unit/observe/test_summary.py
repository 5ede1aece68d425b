import json

import pytest

from trainer.errors import TrainingError
from trainer.observe.summary import Clock, how_far, parts_of, seconds_by_part, summarise, wall_seconds
from trainer.storage import layout
from trainer.training import device


def test_the_score_of_an_earlier_process_is_not_this_ones(record):
    point = {
        "time": 1.0,
        "attempt": 1,
        "workers": 1,
        "seconds": 1.0,
        "test_accuracy": 0.9,
        "test_loss": 0.3,
        "epoch": 1,
        "step": 5,
    }
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


PARTS = {"start_up": 1.0, "training": 4.0, "wall": 5.0}
OF_ONE_PROCESS = {"start_up": 1.0, "training": 4.0}
ACCOUNT = {"productive": 6.0, "redone": 3.0, "wall": 9.0, "goodput": 0.6667}


@pytest.mark.parametrize(
    ("result", "wall", "parts"),
    [
        ({}, None, {}),
        ({"seconds": PARTS}, 5.0, {"start_up": 1.0, "training": 4.0}),
        (
            {"seconds": PARTS, "goodput": {**ACCOUNT, "wall": 5.0}, "attempt": 1},
            5.0,
            {"start_up": 1.0, "training": 4.0},
        ),
        ({"seconds": PARTS, "goodput": ACCOUNT, "attempt": 2}, 9.0, {"productive": 6.0, "redone": 3.0}),
    ],
)
def test_a_run_has_one_wall_time_and_parts_that_add_up_to_it(result, wall, parts):
    assert (wall_seconds(result), parts_of(result)) == (wall, parts)
    assert sum(parts.values()) == (wall or 0)


def test_how_far_a_run_came_is_said_by_its_last_point(record):
    assert how_far(record) == "before the first report"
    record.add_point({"time": 1.0, "step": 1900, "epoch": 2})
    assert how_far(record) == "at step 1900/18750, in epoch 2/10"
