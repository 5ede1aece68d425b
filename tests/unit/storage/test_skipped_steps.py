import pytest

from trainer.errors import CheckpointError
from trainer.storage import checkpoints, layout, skipped_steps, store
from trainer.storage.checkpoints import Checkpoint


@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "r")


def save(run, step):
    checkpoints.commit(run, Checkpoint(step, 1), dict.fromkeys(checkpoints.FILES, b"x"), {})


def test_the_steps_between_the_newest_checkpoint_and_the_loss_are_left_out(run):
    save(run, 10)
    save(run, 20)
    assert skipped_steps.read(run) == range(0)
    assert skipped_steps.write(run, 26)
    assert list(skipped_steps.read(run)) == [20, 21, 22, 23, 24, 25]


def test_it_is_done_once_in_a_run(run):
    save(run, 10)
    assert skipped_steps.write(run, 16)
    save(run, 20)
    assert not skipped_steps.write(run, 26)
    assert skipped_steps.read(run) == range(10, 16)


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(run):
    assert not skipped_steps.write(run, 6)
    save(run, 6)
    assert not skipped_steps.write(run, 6)
    assert skipped_steps.read(run) == range(0)


def test_it_is_no_checkpoint_and_survives_pruning(run):
    save(run, 10)
    skipped_steps.write(run, 16)
    save(run, 20)
    checkpoints.prune(run, keep=1)
    assert [each.step for each in checkpoints.list_checkpoints(run).committed] == [20]
    assert skipped_steps.read(run) == range(10, 16)


def test_if_it_is_damaged_the_run_stops_since_it_would_not_be_the_same(run):
    save(run, 10)
    skipped_steps.write(run, 16)
    place = store.join(run, layout.CHECKPOINTS, skipped_steps.FILE)
    store.write(place, store.read(place).replace(b"16", b"17"))
    with pytest.raises(CheckpointError, match=r"left-out\.json is not what was written"):
        skipped_steps.read(run)
