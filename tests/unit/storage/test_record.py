import json
import resource

import pytest

from trainer import resolve
from trainer.cluster import status
from trainer.driver import preflight
from trainer.errors import ConflictError, StorageError, TrainingError
from trainer.observe.summary import Clock, seconds_by_part, summarise
from trainer.storage.record import Record, find

CONFIG = resolve.load("seed")


@pytest.fixture
def record(tmp_path):
    made = Record(tmp_path / "r1")
    made.create(CONFIG, {"ray": "2.60.0"})
    return made


def test_a_record_gives_back_what_was_put_in(record):
    record.add_point({"step": 1})
    record.add_event("run_started", pid=1)
    record.write_result({"status": "finished"})
    assert record.config() == CONFIG
    assert record.points() == [{"step": 1}]
    assert [(event["event"], event["pid"]) for event in record.events()] == [("run_started", 1)]
    assert record.result() == {"status": "finished"}
    assert record.environment() == {"ray": "2.60.0"}


def test_a_line_cut_by_a_kill_is_left_out_and_the_rest_is_kept(record):
    record.add_point({"step": 1})
    with record.metrics_file.open("a") as out:
        out.write('{"step": 2, "lo')
    assert record.points() == [{"step": 1}]


def test_a_run_that_begins_again_writes_behind_its_last_whole_line(record):
    record.add_point({"step": 1})
    with record.metrics_file.open("a") as out:
        out.write('{"step": 2, "lo')
    record.begin_again()
    record.add_point({"step": 2})
    assert record.points() == [{"step": 1}, {"step": 2}]


def test_a_line_for_which_there_is_no_room_leaves_no_part_of_itself(record):
    record.add_point({"step": 1})
    room = record.metrics_file.stat().st_size + 30
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # a write beyond it is cut, and the next one fails
    try:
        with pytest.raises(StorageError, match=r"metrics\.jsonl"):
            record.add_point({"step": 2, "more": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    record.add_point({"step": 3})
    assert record.points() == [{"step": 1}, {"step": 3}]


def test_a_damaged_line_is_a_sentence_with_the_file_and_its_number(record):
    record.metrics_file.write_text('{"step": 0}\n{"step": 1\n{"step": 2}\n')
    with pytest.raises(StorageError, match=r"metrics\.jsonl: line 2 is not JSON"):
        record.points()


def test_the_score_of_an_earlier_process_is_not_this_ones(record):
    point = {"time": 1.0, "attempt": 1, "seconds": 1.0, "test_accuracy": 0.9, "test_loss": 0.3, "epoch": 1, "step": 5}
    record.add_point(point)
    assert summarise(record, Clock(), "failed", TrainingError("x"))["test_accuracy"] is None


def test_a_damaged_result_is_a_sentence_with_the_file(record):
    record.result_file.write_text("{")
    with pytest.raises(StorageError, match=r"result\.json cannot be read"):
        record.result()


def test_a_damaged_run_is_listed_as_such_and_the_others_are_listed_too(record, tmp_path):
    record.write_result({"status": "failed"})
    other = Record(tmp_path / "r2")
    other.create(CONFIG, {})
    other.result_file.write_text("{")
    assert [row[:2] for row in status.kept(str(tmp_path))] == [("r1", "failed"), ("r2", "damaged")]


def test_a_run_is_found_by_its_name_and_by_its_folder(record):
    assert find("r1", str(record.folder.parent)).folder == record.folder
    assert find(str(record.folder), str(record.folder / "elsewhere")).folder == record.folder


def test_a_run_that_is_not_there_is_named_with_those_that_are(record):
    with pytest.raises(StorageError, match=r"r2 is neither a run in .*; there are r1"):
        find("r2", str(record.folder.parent))


def test_a_name_with_another_config_is_refused_with_the_difference(record):
    with pytest.raises(ConflictError, match="epochs: 10 → 3"):
        preflight.check_name_is_free(record, resolve.load("seed", None, ["epochs=3"]))


def test_the_parts_of_the_time_add_up_to_the_wall_time(record):
    clock = Clock()
    clock.began, clock.data_seconds = 1000.0, 0.5
    lines = [
        {"time": 1010.1, "event": "training_started", "started_at": 1010.0, "data_seconds": 0.7},
        {"time": 1030.1, "event": "training_finished", "finished_at": 1030.0},
    ]
    record.events_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
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
    result = summarise(record, Clock(), "failed", TrainingError("A worker failed: out of luck."))
    assert (result["status"], result["exit_code"], result["error"]) == ("failed", 6, "A worker failed: out of luck.")
    assert result["test_accuracy"] is None
