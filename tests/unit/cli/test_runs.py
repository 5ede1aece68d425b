import pytest
from typer.testing import CliRunner

from trainer import resolve
from trainer.cli.main import app
from trainer.errors import CheckpointError
from trainer.storage import checkpoints
from trainer.storage.checkpoints import Best, Checkpoint
from trainer.storage.record import Record


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with checkpoints at steps 1 to 4, of which the second is the best."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("TRAINER_STORAGE", raising=False)
    record = Record(tmp_path / "runs" / "r1")
    record.create(resolve.load("fast"), {})
    for step in range(1, 5):
        checkpoints.commit(
            record.place, Checkpoint(step, 1), dict.fromkeys(checkpoints.FILES, bytes([step])), {"attempt": step}
        )
    checkpoints.write_best(record.place, Best(2, 0.91))
    return record


def trainer(*arguments):
    return CliRunner().invoke(app, ["checkpoints", *arguments])


def damage(run, step):
    (run.folder / "checkpoints" / f"step-{step:08}-0001" / "model.safetensors").write_bytes(b"xx")


def steps(run):
    return [checkpoint.step for checkpoint in checkpoints.list_checkpoints(run.place).committed]


def test_ls_lists_every_checkpoint_newest_first(run):
    lines = trainer("ls", "r1").stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        [f"step-0000000{step}-0001", str(step), str(step), "committed"] for step in (4, 3, 2, 1)
    ]
    assert "best: 91.00%" in lines[3]
    assert sum("best" in line for line in lines) == 1


def test_verify_names_what_is_damaged(run):
    assert trainer("verify", "r1").exit_code == 0
    damage(run, 3)
    done = trainer("verify", "r1")
    assert isinstance(done.exception, CheckpointError)
    assert done.exception.problem.startswith("step-00000003-0001: damaged")
    assert "model.safetensors has 2 bytes instead of 1" in done.stdout
    assert done.stdout.count("intact") == 3


def test_ls_reads_no_bytes_of_the_checkpoints(run):
    damage(run, 3)
    assert trainer("ls", "r1").exit_code == 0


def test_prune_keeps_the_newest_and_the_best(run):
    assert trainer("prune", "r1", "--keep", "1").stdout == "Deleted step-00000003-0001, step-00000001-0001.\n"
    assert steps(run) == [4, 2]


def test_prune_keeps_the_newest_intact_one_too(run):
    damage(run, 4)
    trainer("prune", "r1", "--keep", "1")
    assert steps(run) == [4, 3, 2]


def test_a_run_without_checkpoints_says_so(run, tmp_path):
    Record(tmp_path / "runs" / "r2").create(resolve.load("fast"), {})
    assert trainer("ls", "r2").stdout == "r2 has no checkpoint.\n"
    assert trainer("prune", "r2").stdout == "Deleted none.\n"
