"""Runs by the records in a storage."""

import json
from dataclasses import replace

import pytest
from support.points import EPOCH

from trainer import resolve
from trainer.cluster import records
from trainer.cluster.status import RunRow
from trainer.errors import OutageError, StorageError
from trainer.storage import layout, store
from trainer.storage.lease import Lease
from trainer.storage.record import Record

CONFIG = resolve.load("seed")
FINISHED = {"status": "finished", "exit_code": 0, "epochs": 2, "steps": 10, "test_accuracy": 0.9, "test_loss": 0.3}
FINISHED |= {"started_at": 0.0, "ended_at": 60.0}


@pytest.fixture
def make(tmp_path):
    def make(name, result=None):
        record = Record(tmp_path / name)
        record.create(CONFIG, {"ray": "2.60.0"})
        if result is not None:
            record.file(layout.RESULT).write_text(result if isinstance(result, str) else json.dumps(result))
        return record

    return make


ODD = [
    "{",
    "[]",
    "3",
    "null",
    '"x"',
    '{"status": 3}',
    '{"status": "failed", "test_accuracy": "high"}',
    '{"status": "failed", "ended_at": 1e30}',
    '{"status": "failed", "ended_at": "now"}',
    '{"status": "failed", "epochs": []}',
    "[" * 100_000,
    "\\udcff",
]


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_result_is_a_damaged_row_and_the_others_are_listed(make, tmp_path, odd):
    make("a", FINISHED)
    make("b", odd)
    make("c", FINISHED)
    assert [(row.run, row.state) for row in records.rows(str(tmp_path))] == [
        ("a", "finished"),
        ("b", "damaged"),
        ("c", "finished"),
    ]


@pytest.mark.parametrize("config", ["{", "epochs: many", "- 1", "nope: 1", "\x00"])
def test_an_odd_config_is_a_damaged_row(make, tmp_path, config):
    make("a").file(layout.CONFIG).write_text(config)
    assert [(row.run, row.state) for row in records.rows(str(tmp_path))] == [("a", "damaged")]


def test_a_row_has_epochs_accuracy_and_times(make, tmp_path):
    make("a", FINISHED)
    place = str(tmp_path)
    (row,) = records.rows(place)
    known = RunRow("a", "finished", 2, CONFIG.epochs, 0.9, 0.0, 60.0, 60.0, place, f"{place}/a")
    assert row == replace(known, test_loss=row.test_loss)


def test_a_row_has_what_the_result_says_of_time_and_money(make, tmp_path):
    spent = {"total": 1.5, "currency": "EUR"}
    more = {"test_loss": 0.3, "goodput": {"goodput": 0.75, "wall": 80.0}, "cost": spent, "workers": 2, "attempt": 3}
    make("a", {**FINISHED, **more})
    (row,) = records.rows(str(tmp_path))
    assert (row.test_loss, row.goodput, row.wall_s, row.cost, row.currency) == (0.3, 0.75, 80.0, 1.5, "EUR")
    assert (row.workers, row.attempts) == (2, 3)


def test_rows_are_newest_first(make, tmp_path):
    for name, at in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        make(name, {**FINISHED, "started_at": at})
    assert [row.run for row in records.rows(str(tmp_path))] == ["new", "middle", "old"]


def test_a_run_without_result_runs_while_its_lease_is_held(make, tmp_path):
    record = make("a")
    record.add_event({"event": "run_started", "process_created": 5.0})
    record.add_point({**EPOCH, "epoch": 3, "time": 9.0})
    with Lease(record.place, lost=lambda: None):
        (row,) = records.rows(str(tmp_path))
        assert records.describe(str(tmp_path), "a").state == "running"
    assert (row.state, row.epoch, row.test_accuracy, row.started_at, row.seen_at) == ("running", 3, 0.8234, 5.0, 9.0)
    (row,) = records.rows(str(tmp_path))
    assert (row.state, row.epoch) == ("stopped", 3)


@pytest.mark.parametrize("rest", ["{", "3", '{"event": "metrics", "epoch": "x"}', ""])
def test_a_point_that_is_being_written_is_left_out(make, tmp_path, rest):
    record = make("a")
    record.add_point(EPOCH)
    with record.file(layout.METRICS).open("a") as file:
        file.write(rest)
    assert [row.epoch for row in records.rows(str(tmp_path))] == [1]


def test_an_interrupted_run_is_stopped_in_the_one_set_of_words(make, tmp_path):
    make("a", {**FINISHED, "status": "interrupted"})
    assert [row.state for row in records.rows(str(tmp_path))] == ["stopped"]


def test_a_folder_without_config_is_no_run(tmp_path):
    (tmp_path / "comparison").mkdir()
    assert records.rows(str(tmp_path)) == []


@pytest.mark.parametrize(("name", "words"), [("none", "does not exist"), ("file", "is not a folder")])
def test_a_storage_that_is_no_folder_is_refused(tmp_path, name, words):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"{name} {words}; give the folder or bucket"):
        records.rows(str(tmp_path / name))


def test_an_outage_is_not_damage(make, tmp_path, monkeypatch):
    make("a", FINISHED)
    read = store.read

    def away(uri):
        if uri.endswith(layout.RESULT):
            raise OutageError("storage: s3://runs is away")
        return read(uri)

    monkeypatch.setattr(records.store, "read", away)
    with pytest.raises(OutageError):
        records.rows(str(tmp_path))


def test_a_finished_record_is_described_with_its_result(make, tmp_path):
    make("a", FINISHED)
    found = records.describe(str(tmp_path), "a")
    assert (found.state, found.exit_code, found.ended) == ("finished", 0, "Run a finished.")
    assert (found.progress["epoch"], found.progress["epochs"]) == (2, CONFIG.epochs)
    assert (found.progress["step"], found.progress["steps"]) == (10, CONFIG.total_steps)
    assert found.submitted_at == "1970-01-01T00:00:00Z"
    assert found.record == f"{tmp_path}/a"
    assert found.result == FINISHED


def test_a_failed_record_is_described_with_its_error(make, tmp_path):
    make("a", {"status": "failed", "exit_code": 9, "error": "the loss became nan; lower optimizer.lr."})
    found = records.describe(str(tmp_path), "a")
    assert (found.state, found.exit_code) == ("failed", 9)
    assert found.ended == "the loss became nan; lower optimizer.lr."


def test_a_record_without_result_and_lease_is_stopped(make, tmp_path):
    make("a")
    found = records.describe(str(tmp_path), "a")
    assert (found.state, found.exit_code, found.ended, found.result) == ("stopped", None, None, None)
    assert (found.progress["epoch"], found.progress["test_accuracy"]) == (0, None)


def test_a_record_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="has no run a; list its runs"):
        records.describe(str(tmp_path), "a")


@pytest.mark.parametrize("odd", [text for text in ODD if "test_accuracy" not in text])
def test_an_odd_record_is_damaged(make, tmp_path, odd):
    make("a", odd)
    with pytest.raises(StorageError, match="is damaged") as damaged:
        records.describe(str(tmp_path), "a")
    assert damaged.value.fix


def test_the_lines_of_a_record_are_its_events_and_points_by_time(make, tmp_path):
    record = make("a")
    record.add_point({**EPOCH, "time": 5.0})
    record.file(layout.EVENTS).write_text(
        '{"event": "run_started", "time": 1.0}\n{"event": "run_ended", "time": 9.0}\n'
    )
    found = [json.loads(text) for text in records.lines(str(tmp_path), "a")]
    assert [event["event"] for event in found] == ["run_started", "metrics", "run_ended"]
    assert found[1] == {"event": "metrics", **EPOCH, "time": 5.0}
