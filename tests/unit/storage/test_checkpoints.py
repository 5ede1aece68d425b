import itertools
import json
import random

import pytest
from support.killed_saves import killed_while_it_saves
from support.object_store import BUCKET, s3_server
from typer.testing import CliRunner

from trainer import resolve
from trainer.cli.main import app
from trainer.errors import CheckpointError
from trainer.storage import bucket as buckets
from trainer.storage import checkpoints, layout, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.record import Record

FILES = {
    "model.safetensors": bytes(range(256)) * 40,
    "optimizer.safetensors": b"o" * 1000,
    "rng.safetensors": b'{"step": 7}',
}


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        buckets.client.cache_clear()
        yield f"s3://{BUCKET}"
        buckets.client.cache_clear()


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.server)])
def run(request, tmp_path):
    """The URI of a run that has no checkpoint yet, in a folder or in an S3 server."""
    if request.param == "folder":
        return str(tmp_path / "r")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def none_expected(found, damage):
    raise AssertionError(f"{found.name} was quarantined: {damage}")


def commit(run, *steps):
    for step in steps:
        checkpoints.commit(
            run, Checkpoint(step, 1), {**FILES, "rng.safetensors": json.dumps({"step": step}).encode()}, {}
        )


def path(run, step, name):
    return store.join(run, layout.CHECKPOINTS, Checkpoint(step, 1).name, name)


def test_the_newest_is_found_and_read_back_byte_by_byte(run):
    commit(run, 5, 70, 8)
    found, files, manifest = checkpoints.newest_valid(run, none_expected)
    assert (found.step, manifest["step"]) == (70, 70)
    assert files == {**FILES, "rng.safetensors": b'{"step": 70}'}


def test_manifest_records_the_attempt_and_old_manifests_have_none(run):
    checkpoints.commit(run, Checkpoint(5, 1), FILES, {"attempt": 3})
    checkpoints.commit(run, Checkpoint(8, 1), FILES, {})  # as it was before manifests said it
    assert checkpoints.read(run, Checkpoint(5, 1))[1]["attempt"] == 3
    assert checkpoints.newest_valid(run, none_expected)[2]["attempt"] is None
    assert [checkpoints.attempt_of(run, Checkpoint(step, 1)) for step in (5, 8)] == [3, None]


def test_the_list_of_checkpoints_names_the_attempt_of_each_where_it_can(tmp_path):
    record = Record(tmp_path / "runs" / "r")
    record.create(resolve.load("seed"), {})
    for step, facts in ((5, {"attempt": 3}), (7, {"attempt": 4}), (8, {})):
        checkpoints.commit(record.place, Checkpoint(step, 1), FILES, facts)
    store.write(path(record.place, 7, checkpoints.MANIFEST), b"cut")
    done = CliRunner().invoke(app, ["checkpoints", "ls", "r", "--storage", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert [line.split()[:4] for line in done.output.splitlines()] == [
        ["checkpoint", "step", "attempt", "state"],
        ["step-00000008-0001", "8", "–", "committed"],
        ["step-00000007-0001", "7", "–", "committed"],
        ["step-00000005-0001", "5", "3", "committed"],
    ]


def test_a_run_without_checkpoints_has_none(run):
    assert checkpoints.newest_valid(run, none_expected) is None


def test_without_its_manifest_a_checkpoint_is_none_and_that_is_told(run):
    commit(run, 3, 5, 8)
    for step in (3, 8):
        store.delete(path(run, step, checkpoints.MANIFEST))
    passed_over = []
    found, *_ = checkpoints.newest_valid(run, none_expected, passed_over.append)
    assert found.step == 5
    assert [each.step for each in checkpoints.list_checkpoints(run).unfinished] == [8, 3]
    assert [each.step for each in passed_over] == [8]  # what is older is of no interest


def test_a_run_stops_if_all_manifests_are_missing(run):
    commit(run, 5, 8)
    checkpoints.write_best(run, checkpoints.Best(8, 0.9))
    for step in (5, 8):
        store.delete(path(run, step, checkpoints.MANIFEST))
    with pytest.raises(CheckpointError, match=r"there were checkpoints, as best\.json shows"):
        checkpoints.newest_valid(run, none_expected)


def test_a_first_save_that_was_cut_off_does_not_keep_a_run_from_beginning(run):
    commit(run, 5)
    store.delete(path(run, 5, checkpoints.MANIFEST))
    assert checkpoints.newest_valid(run, none_expected) is None


def test_a_note_of_the_best_that_is_damaged_is_none(run):
    checkpoints.write_best(run, checkpoints.Best(8, 0.9))
    assert checkpoints.best(run) == checkpoints.Best(8, 0.9)
    place = store.join(run, layout.CHECKPOINTS, checkpoints.BEST)
    store.write(place, store.read(place).replace(b"8", b"9", 1))
    assert checkpoints.best(run) is None


@pytest.mark.parametrize("name", [*FILES, checkpoints.MANIFEST])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "missing"])
def test_a_damaged_checkpoint_is_quarantined_and_the_older_one_used(run, name, damage):
    commit(run, 5, 8)
    whole = store.read(path(run, 8, name))
    if damage == "missing" and name == checkpoints.MANIFEST:
        pytest.skip("without a manifest it is no checkpoint: a test above")
    if damage == "missing":
        store.delete(path(run, 8, name))
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        store.write(path(run, 8, name), {"flipped": flipped, "cut": whole[:middle], "emptied": b""}[damage])
    seen = []
    found, *_ = checkpoints.newest_valid(run, lambda which, what: seen.append((which.step, what)))
    assert found.step == 5
    assert [step for step, _ in seen] == [8]
    assert name in seen[0][1]
    assert [each.step for each in checkpoints.list_checkpoints(run).quarantined] == [8]
    again, *_ = checkpoints.newest_valid(run, none_expected)  # it is not tried a second time
    assert again.step == 5


@pytest.mark.server
def test_a_thousand_random_damages_are_all_detected(tmp_path):
    run, luck = str(tmp_path / "r"), random.Random(0)
    commit(run, 8)
    names = [*FILES, checkpoints.MANIFEST]
    whole = {name: store.read(path(run, 8, name)) for name in names}
    for _ in range(1000):
        name = luck.choice(names)
        content = bytearray(whole[name])
        how = luck.choice(["flip", "cut", "delete"])
        if how == "flip":
            content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
        (tmp_path / "r" / "checkpoints" / Checkpoint(8, 1).name / name).unlink()
        if how != "delete":
            cut = content[: luck.randrange(len(content))] if how == "cut" else content
            (tmp_path / "r" / "checkpoints" / Checkpoint(8, 1).name / name).write_bytes(cut)
        with pytest.raises(CheckpointError):
            checkpoints.read(run, Checkpoint(8, 1))
        store.write(path(run, 8, name), whole[name])
    checkpoints.read(run, Checkpoint(8, 1))


def test_if_all_are_damaged_the_run_stops_loudly_and_stays_stopped(run):
    commit(run, 5, 8)
    for step in (5, 8):
        store.write(path(run, step, "model.safetensors"), b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints is intact"):
            checkpoints.newest_valid(run, lambda *_: None)


def test_of_two_writers_of_one_checkpoint_the_second_is_refused(run):
    commit(run, 5)
    with pytest.raises(CheckpointError, match="committed already"):
        checkpoints.commit(run, Checkpoint(5, 1), FILES, {"other": 1})


def test_pruning_keeps_the_newest_and_what_is_named_and_takes_leftovers(run):
    commit(run, 1, 2, 3, 4, 5)
    store.write(path(run, 3, "x"), b"")
    store.write(store.join(run, layout.CHECKPOINTS, Checkpoint(2, 9).name, "model.safetensors"), b"half")
    store.write(store.join(run, layout.CHECKPOINTS, Checkpoint(6, 1).name, "model.safetensors"), b"being saved")
    gone = checkpoints.prune(run, keep=2, besides=[1])
    assert [each.step for each in gone] == [3, 2]
    found = checkpoints.list_checkpoints(run)
    assert [each.step for each in found.committed] == [5, 4, 1]
    assert [each.step for each in found.unfinished] == [6]
    assert not any("step-00000002" in name for name in store.files(run))


def test_pruning_never_takes_the_newest(run):
    commit(run, 1)
    assert checkpoints.prune(run, keep=0) == []
    assert [each.step for each in checkpoints.list_checkpoints(run).committed] == [1]


@pytest.mark.server
def test_wherever_a_save_is_killed_a_valid_checkpoint_is_found(tmp_path):
    found = {1: 0, 2: 0}
    for line in itertools.count():
        run = str(tmp_path / str(line))
        commit(run, 1)
        killed = killed_while_it_saves(run, {**FILES, "rng.safetensors": b'{"step": 2}'}, line)
        which, files, _ = checkpoints.newest_valid(run, none_expected)
        assert json.loads(files["rng.safetensors"])["step"] == which.step
        found[which.step] += 1
        commit(run, 3)  # what it left does not stand in the way
        checkpoints.prune(run, keep=1)
        assert [each.step for each in checkpoints.list_checkpoints(run).committed] == [3]
        if not killed:
            break
    assert min(found.values()) > 20  # before the manifest and after it
    assert sum(found.values()) > 200
