"""Checkpoints of a real run that are damaged on the disk, or whose saving is cut off anywhere."""

from __future__ import annotations

import itertools
import random
import shutil

import pytest
from support.killed_saves import killed_while_it_saves
from support.training import OFTEN, Training

from trainer.storage import checkpoints, layout, seal, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.record import Record

DAMAGES = 1000
KILL_POINTS = 200


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_folder):
    """The folder of a finished run."""
    with Training(tmp_path_factory.mktemp("finished"), *OFTEN) as training:
        assert training.ends() == 0, training.output()
    return training.place


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to be broken."""
    return shutil.copytree(finished, tmp_path / "r")


def none_expected(which, damage):
    raise AssertionError(f"{which.name} was quarantined: {damage}")


def damaged(content: bytes, luck: random.Random) -> bytes | None:
    """One bit of it flipped, or cut anywhere, or gone."""
    how = luck.choice(["flip", "cut", "delete"])
    if how == "flip":
        changed = bytearray(content)
        changed[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
        return bytes(changed)
    return content[: luck.randrange(len(content))] if how == "cut" else None


def damages(files):
    """Each time one of the files is damaged, which, and whether it is gone; afterwards it is whole again."""
    luck = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    whole = {file: file.read_bytes() for file in sorted(files)}
    for _ in range(DAMAGES):
        file = luck.choice(list(whole))
        content = damaged(whole[file], luck)
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        yield file.name, content is None
        file.write_bytes(whole[file])


def test_a_thousand_damages_to_a_checkpoint_are_all_detected(run, note):
    newest, older = checkpoints.list_checkpoints(str(run)).committed[:2]
    expected, _ = checkpoints.read(str(run), older)
    folder = run / layout.CHECKPOINTS / newest.name
    for name, gone in damages(folder.iterdir()):
        seen, without_manifest = [], []
        found, files, _ = checkpoints.newest_valid(
            str(run), lambda which, damage, seen=seen: seen.append(which), without_manifest.append
        )
        assert (found, files) == (older, expected)
        no_checkpoint = gone and name == checkpoints.MANIFEST  # then nothing is quarantined
        assert (seen, without_manifest) == (([], [newest]) if no_checkpoint else ([newest], []))
        (folder / checkpoints.QUARANTINED).unlink(missing_ok=True)
    found, *_ = checkpoints.newest_valid(str(run), none_expected)
    assert found == newest
    note(
        "a bit flipped, a file cut or a file gone, anywhere in the newest checkpoint",
        "all were detected; the checkpoint is quarantined, and the next older one is taken, whole",
        times=DAMAGES,
    )


def test_a_thousand_damages_to_a_record_are_all_detected(run, note):
    seal.write(Record(run))  # the line of the report came after the seal, and is not held by it
    # the page and its pictures are made from the others
    files = [file for file in run.iterdir() if file.is_file() and file.name != "report.html"]
    assert {file.name for file in files} == {
        *("config.yaml", "environment.json", "metrics.jsonl", "events.jsonl", "evaluation.json", "result.json"),
        layout.RESOURCES,
        *(layout.WEIGHTS, checkpoints.MANIFEST),
    }
    for name, _ in damages(files):
        assert set(seal.verify(Record(run))) == {name}
    assert seal.verify(Record(run)) == {}
    note(
        "a bit flipped, a file cut or a file gone, anywhere in the record of a finished run",
        "all were detected; weights, scores and result are rebuilt by the same command, and the rest is reported",
        times=DAMAGES,
    )


def test_wherever_a_save_is_killed_the_newest_whole_checkpoint_is_found(run, tmp_path, note):
    newest, *_ = checkpoints.list_checkpoints(str(run)).committed
    files, _ = checkpoints.read(str(run), newest)
    found = {1: 0, 2: 0}
    for point in itertools.count():
        place = str(tmp_path / "killed")
        checkpoints.commit(place, Checkpoint(1, 1), files, {})
        killed = killed_while_it_saves(place, files, point)
        which, content, _ = checkpoints.newest_valid(place, none_expected)
        assert content == files
        found[which.step] += 1
        checkpoints.commit(place, Checkpoint(3, 1), files, {})  # what it left does not stand in the way
        checkpoints.prune(place, keep=1)
        assert [each.step for each in checkpoints.list_checkpoints(place).committed] == [3]
        assert all("step-00000003" in name for name in store.files(store.join(place, layout.CHECKPOINTS)))
        shutil.rmtree(place)
        if not killed:
            break
    assert min(found.values()) > 20  # before the manifest and after it
    assert point >= KILL_POINTS
    note(
        "SIGKILL before each line of Python that saves a checkpoint and deletes an old one",
        "the new checkpoint or the one before it is found, whole; what was left is collected",
        times=point,
    )
