import resource

import pytest

from trainer import resolve
from trainer.errors import StorageError
from trainer.storage import layout

CONFIG = resolve.load("seed")


def test_a_record_gives_back_what_was_put_in(record):
    record.add_point({"step": 1})
    record.add_event({"event": "run_started", "pid": 1})
    record.write_result({"status": "finished"})
    assert record.config() == CONFIG
    assert record.points() == [{"step": 1}]
    assert [(event["event"], event["pid"]) for event in record.events()] == [("run_started", 1)]
    assert record.result() == {"status": "finished"}
    assert record.environment() == {"ray": "2.60.0"}


def test_a_line_cut_by_a_kill_is_left_out_and_the_rest_is_kept(record):
    record.add_point({"step": 1})
    with record.file(layout.METRICS).open("a") as out:
        out.write('{"step": 2, "lo')
    assert record.points() == [{"step": 1}]


def test_a_run_that_begins_again_writes_behind_its_last_whole_line(record):
    record.add_point({"step": 1})
    with record.file(layout.METRICS).open("a") as out:
        out.write('{"step": 2, "lo')
    record.restart()
    record.add_point({"step": 2})
    assert record.points() == [{"step": 1}, {"step": 2}]


def test_a_line_for_which_there_is_no_room_leaves_no_part_of_itself(record):
    record.add_point({"step": 1})
    room = record.file(layout.METRICS).stat().st_size + 30
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
    record.file(layout.METRICS).write_text('{"step": 0}\n{"step": 1\n{"step": 2}\n')
    with pytest.raises(StorageError, match=r"metrics\.jsonl: line 2 is not a JSON object"):
        record.points()


def test_a_damaged_result_is_a_sentence_with_the_file(record):
    record.file(layout.RESULT).write_text("{")
    with pytest.raises(StorageError, match=r"result\.json is damaged and cannot be read"):
        record.result()
