import pytest

from trainer import resolve
from trainer.driver import fork
from trainer.errors import CheckpointError, ConfigError
from trainer.storage import checkpoints
from trainer.storage.checkpoints import Best, Checkpoint
from trainer.storage.record import Record

SETTINGS = ["epochs=2", "global_batch_size=6000"]  # 20 steps


def config(*more):
    return resolve.load("fast", None, [*SETTINGS, *more])


def files_of(step):
    return dict.fromkeys(checkpoints.FILES, str(step).encode())


@pytest.fixture
def source(tmp_path):
    record = Record(tmp_path / "runs" / "r1")
    record.create(config(), {})
    for step in (5, 10, 15):
        checkpoints.commit(record.place, Checkpoint(step, 1), files_of(step), {"seed": 7, "epoch": 1, "attempt": 2})
    return record


def begun(source, tmp_path, named=None, *more):
    run = str(tmp_path / "runs" / "r2")
    found = fork.plan(source, config(*more), named)
    assert fork.copy(found, run, fence=4)
    return run


@pytest.mark.parametrize(("named", "step"), [(None, 15), ("step-00000010-0001", 10), ("best", 5)])
def test_a_fork_starts_from_the_chosen_checkpoint_and_names_it(source, tmp_path, named, step):
    checkpoints.write_best(source.place, Best(5, 0.9))
    run = begun(source, tmp_path, named, "optimizer.lr=0.7")
    which, files, manifest = checkpoints.newest_valid(run, None)
    assert (which.step, which.fence, files) == (step, 4, files_of(step))
    assert (manifest["seed"], manifest["epoch"], manifest["attempt"]) == (7, 1, None)  # no attempt of this run saved it
    assert manifest["forked_from"] == f"{source.place}/checkpoints/step-{step:08}-0001"


def test_a_fork_that_has_a_checkpoint_of_its_own_goes_on_from_there(source, tmp_path):
    run = begun(source, tmp_path)
    checkpoints.commit(run, Checkpoint(18, 4), files_of(18), {})
    assert fork.copy(fork.plan(source, config(), None), run, fence=5) is False
    assert checkpoints.newest_valid(run, None)[0].step == 18


def test_a_damaged_newest_is_passed_over_but_not_one_that_was_asked_for(source):
    broken = source.folder / "checkpoints" / "step-00000015-0001" / "model.safetensors"
    broken.write_bytes(b"x")
    assert fork.plan(source, config(), None).checkpoint.step == 10
    with pytest.raises(CheckpointError, match=r"step-00000015-0001 of r1 is damaged .* name another with --from"):
        fork.plan(source, config(), "step-00000015-0001")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("model.hidden=[8]", r"model.hidden: \[8\] differs from \[\d.*\] in r1"),
        ("optimizer.name=adamw", "optimizer.name: adamw differs from muon in r1"),
        ("global_batch_size=600", "global_batch_size: 600 differs from 6000 in r1"),
    ],
)
def test_what_the_weights_do_not_fit_is_refused(source, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        fork.plan(source, config(setting), None)


def test_a_run_that_would_be_over_before_it_begins_is_refused(source):
    with pytest.raises(
        ConfigError,
        match=r"epochs: 1 \(10 steps\) is already reached by checkpoint step-00000015-0001 of r1; raise",
    ):
        fork.plan(source, config("epochs=1"), None)
    assert fork.plan(source, config("epochs=1"), "step-00000005-0001").checkpoint.step == 5


@pytest.mark.parametrize("named", ["step-00000099-0001", "best"])
def test_what_is_not_there_is_said_with_what_is(source, named):
    with pytest.raises(CheckpointError, match=f"r1 has no checkpoint {named}; choose one of step-00000015-0001, step-"):
        fork.plan(source, config(), named)
