import os

import pytest
from support.object_store import s3_server

from trainer import resolve
from trainer.driver import preflight
from trainer.errors import ConflictError, OutageError, StorageError
from trainer.storage import bucket as buckets
from trainer.storage import mirror, store

CONFIG = resolve.load("seed")


@pytest.fixture(scope="module")
def server():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(server, monkeypatch, request):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    buckets.client.cache_clear()
    yield f"s3://runs/{request.node.name[:40]}"
    buckets.client.cache_clear()


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.server)])
def place(request, tmp_path):
    return str(tmp_path / "a folder") if request.param == "folder" else request.getfixturevalue("bucket")


def test_what_was_written_comes_back_and_is_listed(place):
    store.check(place)
    store.write(store.join(place, "r1", "config.yaml"), b"one")
    store.write(store.join(place, "r1", "config.yaml"), b"two")
    store.write(store.join(place, "r1", "plots", "loss.png"), b"")
    assert store.read(store.join(place, "r1", "config.yaml")) == b"two"
    assert store.read(store.join(place, "r1", "result.json")) is None
    assert store.files(store.join(place, "r1")) == ["config.yaml", "plots/loss.png"]
    assert store.folders(place) == ["r1"]


def test_what_was_deleted_is_gone_and_may_be_deleted_again(place):
    uri = store.join(place, "result.json")
    store.write(uri, b"x")
    store.delete(uri)
    store.delete(uri)
    assert store.read(uri) is None


def test_checking_a_storage_leaves_nothing_there(place):
    store.check(place)
    assert store.files(place) == []


def test_a_folder_that_goes_while_it_is_listed_is_no_error(tmp_path, monkeypatch):
    for name in ("a/1", "b/1", "c/1"):
        store.write(str(tmp_path / name), b"x")
    scan = os.scandir

    def scan_after_the_removal(folder):
        if folder == str(tmp_path / "b"):
            (tmp_path / "b/1").unlink()
            (tmp_path / "b").rmdir()
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scan_after_the_removal)
    assert store.files(str(tmp_path)) == ["a/1", "c/1"]
    assert store.folders(str(tmp_path / "b")) == []


def test_a_run_of_a_similar_name_is_not_listed(place):
    store.write(store.join(place, "r1", "x"), b"")
    store.write(store.join(place, "r10", "y"), b"")
    assert store.files(store.join(place, "r1")) == ["x"]


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("file:///tmp/runs/", "/tmp/runs"),
        ("file://localhost/tmp/a%20b", "/tmp/a b"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://runs/a//b", "s3://runs/a/b"),
        ("S3://runs//a/", "s3://runs/a"),
        ("gs://bucket", "gs://bucket"),
        ("/tmp/a b", "/tmp/a b"),
        ("/tmp/x/../a", "/tmp/a"),
        ("/tmp//a/./b/", "/tmp/a/b"),
        ("/tmp/a:b", "/tmp/a:b"),
        ("s3://runs/100% #1?", "s3://runs/100% #1?"),
    ],
)
def test_a_storage_has_one_spelling(given, normal):
    assert store.normalise(given) == normal
    assert store.normalise(normal) == normal


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ftp://x/y", ["ftp://x/y", "s3"]),
        ("s3a://x/y", ["s3a://x/y", "s3 for s3a"]),
        ("s3://", ["names no bucket"]),
        ("s3:///x", ["names no bucket"]),
        ("s3://runs/p/../q", ["s3://runs/p/../q", "write it without"]),
        ("s3://runs/./q", ["write it without"]),
        ("s3:/runs/q", ["s3:/runs/q looks like a URI", "s3://", "./s3:/runs/q"]),
        ("s3:runs", ["looks like a URI"]),
        ("s3//runs/q", ["looks like a URI"]),
        ("https:/x", ["looks like a URI"]),
        ("https://x.example/runs", ["unknown scheme"]),
        ("file://runs/a", ["no absolute path"]),
        ("s3://localhost:9000/runs", ["localhost:9000", "AWS_ENDPOINT"]),
        ("s3://b ucket/x", ["b ucket"]),
        ("s3://runs/a\nb", ["control characters"]),
        ("runs\0", ["control characters"]),
        ("runs\udcff", ["not UTF-8"]),
        ("~nobody-of-this-name/runs", ["home folder"]),
    ],
)
def test_what_is_no_storage_is_refused(given, words):
    with pytest.raises(StorageError) as error:
        store.normalise(given)
    assert all(word in str(error.value) for word in words)


def test_credentials_in_a_uri_are_refused_and_not_shown():
    with pytest.raises(StorageError, match="has credentials in it") as error:
        store.normalise("s3://AKIA:geheim@runs/x")
    assert "geheim" not in str(error.value)


def test_a_working_folder_that_was_removed_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="the working folder was removed"):
        store.normalise("runs")


def test_a_bucket_that_is_not_there_is_a_sentence(bucket):
    with pytest.raises(StorageError, match=r"s3://nowhere cannot be written: the bucket does not exist"):
        store.check("s3://nowhere")


@pytest.mark.server
def test_a_server_that_is_not_there_is_a_sentence_with_its_endpoint(monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    buckets.client.cache_clear()
    monkeypatch.setattr(store, "CHECK_DEADLINE_S", 1)
    with pytest.raises(StorageError, match=r"the store at http://127\.0\.0\.1:9 is unreachable"):
        store.check("s3://runs")


def test_a_record_in_a_bucket_is_found_there_by_another_process(bucket):
    mine = mirror.open_record(store.join(bucket, "r1"))
    mine.create(CONFIG, {"ray": "2.60.0"})
    mine.add_point({"step": 1})
    mirror.push(mine)
    theirs = mirror.find_run("r1", bucket)
    assert theirs.folder != mine.folder
    assert theirs.config() == CONFIG
    assert theirs.points() == [{"step": 1}]
    assert theirs.name == "r1"


def test_pushing_again_sends_what_changed_alone(bucket, monkeypatch):
    mine = mirror.open_record(store.join(bucket, "r1"))
    mine.create(CONFIG, {})
    mirror.push(mine)
    sent = []
    monkeypatch.setattr(store, "write", lambda uri, content: sent.append(uri.rsplit("/", 1)[-1]))
    mirror.push(mine)
    mine.add_event({"event": "warning", "message": "x"})
    mirror.push(mine)
    assert sent == ["events.jsonl"]


def test_a_restart_removes_the_old_result_from_the_bucket(bucket):
    mine = mirror.open_record(store.join(bucket, "r1"))
    mine.create(CONFIG, {})
    mine.write_result({"status": "failed"})
    mirror.push(mine)
    mine.restart()
    assert mirror.find_run("r1", bucket).result() is None


def test_a_name_taken_in_a_bucket_is_refused_with_the_difference(bucket, data_folder):
    mine = mirror.open_record(store.join(bucket, "r1"))
    mine.create(CONFIG, {})
    mirror.push(mine)
    with pytest.raises(ConflictError, match="epochs: 10 → 3"):
        preflight.prepare("r1", resolve.load("seed", None, ["epochs=3"]), bucket, data_folder)


def test_during_an_outage_it_is_tried_again_until_it_is_over(monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.0)
    answers, away = [OutageError("a"), OutageError("b"), None], []

    def act():
        if (answer := answers.pop(0)) is not None:
            raise answer
        return "done"

    assert store.through_outage(act, 60.0, away.append) == "done"
    assert [str(error) for error in away] == ["a.", "b."]


def test_an_outage_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(store, "RETRY_EVERY_S", 0.0)

    def act():
        raise OutageError("away")

    with pytest.raises(OutageError):
        store.through_outage(act, 0.05)
