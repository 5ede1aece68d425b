import threading

import pytest

from trainer import resolve
from trainer.errors import OutageError, StorageError
from trainer.observe.display import PlainDisplay
from trainer.observe.tail import Tail
from trainer.storage import layout, mirror, store
from trainer.storage.mirror import Mirror, discard_scratch, find_run
from trainer.storage.record import Record


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PUSH_EVERY_S", 0.01)
    made = Record(tmp_path / "scratch" / "r1", "s3://bucket/r1")
    made.create(resolve.load("seed"), {})
    return made


@pytest.fixture
def bucket(monkeypatch):
    """A mocked object store: what it holds, and a switch to take it away."""

    class Bucket(dict):
        away = False
        asked = threading.Event()

    held = Bucket()
    to_folder = store.write

    def write(uri, content):
        if not store.is_remote(uri):
            to_folder(uri, content)
            return
        held.asked.set()
        if held.away:
            raise OutageError(f"storage: {uri} cannot be written.")
        held[uri.rsplit("/", 1)[-1]] = content

    monkeypatch.setattr(store, "write", write)
    return held


def wait_until(true, seconds=10):
    waiting = threading.Event()
    for _ in range(int(seconds * 100)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come true")


def test_a_mocked_bucket_has_the_record_while_the_run_goes_on(record, bucket):
    pushing = Mirror(record)
    record.add_point({"step": 1})
    wait_until(lambda: b'"step": 1' in bucket.get("metrics.jsonl", b""))
    record.add_point({"step": 2})
    pushing.finish()
    assert b'"step": 2' in bucket["metrics.jsonl"]


def test_an_outage_of_a_mocked_bucket_is_one_warning(record, bucket):
    bucket.away = True
    pushing = Mirror(record)
    wait_until(lambda: any(event["event"] == "warning" for event in record.events()))
    bucket.asked.clear()
    assert bucket.asked.wait(10)  # it goes on trying
    bucket.away = False
    pushing.finish()
    (warning,) = [event["message"] for event in record.events() if event["event"] == "warning"]
    assert "Training continues" in warning
    assert {"config.yaml", "events.jsonl"} <= set(bucket)


def test_a_hanging_mocked_bucket_is_waited_for_and_announced_once(record, bucket, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "QUIET_S", 0.05)
    back, to_bucket = threading.Event(), store.write

    def write(uri, content):
        assert not store.is_remote(uri) or back.wait(30)
        to_bucket(uri, content)

    monkeypatch.setattr(store, "write", write)
    pushing = Mirror(record)
    with Tail(record, PlainDisplay(record.config())):
        ending = threading.Thread(target=pushing.finish)
        ending.start()
        wait_until(lambda: "storage_away" in kinds(record))
        back.set()
        ending.join(10)
    assert kinds(record) == ["storage_away", "storage_back"]
    assert b"storage_back" in bucket["events.jsonl"]
    shown = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "storage: s3://bucket/r1 has not taken the record in 0.05 s. Waiting for it for at most 120 s.",
        "the storage is reachable again, and everything that waited for it is saved",
    ]


def test_a_failing_mocked_bucket_is_retried_up_to_the_outage_limit(record, bucket, monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(mirror, "QUIET_S", 0.05)
    bucket.away = True
    pushing = Mirror(record)
    ending = threading.Thread(target=pushing.finish, kwargs={"max_outage_s": 60.0})
    ending.start()
    wait_until(lambda: "storage_away" in kinds(record))
    bucket.away = False
    ending.join(10)
    assert "config.yaml" in bucket


def test_a_mocked_bucket_that_takes_the_record_at_once_is_not_talked_about(record, bucket):
    Mirror(record).finish()
    assert kinds(record) == []


def kinds(record):
    return [event["event"] for event in record.events()]


def test_an_endless_outage_of_a_mocked_bucket_names_the_kept_record(record, bucket):
    bucket.away = True
    pushing = Mirror(record)
    with pytest.raises(StorageError, match=f"The record is kept in {record.folder}"):
        pushing.finish()
    discard_scratch()
    assert record.file(layout.CONFIG).exists()


def test_whoever_stops_a_run_does_not_wait_for_a_mocked_bucket_that_hangs(record, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(store, "write", lambda *_: answer.wait(60))
    pushing = Mirror(record)
    with pytest.raises(StorageError, match=r"did not take the record in 0\.1 s"):
        pushing.finish(0.1)
    answer.set()
    pushing._thread.join(10)


def test_a_record_in_a_folder_is_pushed_nowhere(tmp_path, bucket):
    mine = Record(tmp_path / "r1")
    mine.create(resolve.load("seed"), {})
    Mirror(mine).finish()
    assert dict(bucket) == {}


def test_a_full_disk_for_the_warning_does_not_end_the_mirror(record, bucket, monkeypatch):
    def full(*_, **__):
        raise StorageError("storage: no space left.")

    monkeypatch.setattr(record, "add_event", full)
    bucket.away = True
    pushing = Mirror(record)
    wait_until(bucket.asked.is_set)
    bucket.asked.clear()
    wait_until(bucket.asked.is_set)  # it tries again
    bucket.away = False
    pushing.finish()
    assert "config.yaml" in bucket


def test_an_unreadable_file_of_the_record_is_an_error(record, bucket, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mirror, "push", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        Mirror(record).finish()


def test_the_mirror_stops_once_another_process_owns_the_run(record, bucket):
    taken_by = [None]
    pushing = Mirror(record, lambda: taken_by[0])
    assert bucket.asked.wait(10)
    taken_by[0] = "process 4712 on elsewhere"
    record.add_event({"event": "warning", "message": "stale"})
    pushing.finish()
    assert b"stale" not in bucket.get("events.jsonl", b"")


def test_a_run_is_found_by_its_name_and_by_its_folder(record):
    assert find_run("r1", str(record.folder.parent)).folder == record.folder
    assert find_run(str(record.folder), str(record.folder / "elsewhere")).folder == record.folder


def test_a_run_that_is_not_there_is_named_with_those_that_are(record):
    with pytest.raises(StorageError, match=r"r2 is neither a run in .*; it has r1"):
        find_run("r2", str(record.folder.parent))
