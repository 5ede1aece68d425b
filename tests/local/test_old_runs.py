"""Runs of earlier versions, as they were left, are read and continued."""

import json
import shutil
from pathlib import Path

import pytest
from support.runs import result_of, run_trainer

from trainer import __version__
from trainer.cluster import records
from trainer.observe import page
from trainer.storage import checkpoints, seal
from trainer.storage.record import Record

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS)
def runs(request, tmp_path):
    """A folder with the runs of a version, under ``runs/``."""
    shutil.copytree(FIXTURES / request.param, tmp_path / "runs")
    return tmp_path


def continued(folder, name):
    config = str(folder / "runs" / name / "config.yaml")
    return run_trainer(folder, "train", "--name", name, "--config", config)


def test_the_current_version_has_runs_here():
    assert __version__ in VERSIONS, "CONTRIBUTING.md, a release, says how to add them"


def test_old_runs_are_listed_and_their_checkpoints_are_intact(runs):
    listed = {row.run: (row.state, row.epochs) for row in records.rows(str(runs / "runs"))}
    assert listed == {"finished": ("finished", 4), "interrupted": ("stopped", 4)}
    for name in listed:
        states = {row.state for row in checkpoints.described(str(runs / "runs" / name), read_all=True)}
        assert checkpoints.INTACT in states
        assert states <= {checkpoints.INTACT, "unfinished"}


def test_an_old_interrupted_run_is_continued(runs):
    newest = checkpoints.list_checkpoints(str(runs / "runs" / "interrupted")).committed[0]
    done = continued(runs, "interrupted")
    assert done.returncode == 0, done.stdout + done.stderr
    record = Record(runs / "runs" / "interrupted")
    starts = [event for event in record.events() if event["event"] == "training_started"]
    assert (starts[-1]["resumed_from"], starts[-1]["attempt"]) == (newest.name, 2)
    result = result_of(runs, "interrupted")
    assert (result["status"], result["steps"]) == ("finished", 40)
    assert seal.verify(record) == {}
    # on the machine that made the fixture the weights are the same bit for bit; elsewhere nearly
    undisturbed = json.loads((runs / "runs" / "finished" / "result.json").read_text())
    assert result["test_accuracy"] == pytest.approx(undisturbed["test_accuracy"], abs=0.02)


def test_an_old_finished_run_is_intact_and_not_trained_again(runs):
    record = Record(runs / "runs" / "finished")
    assert seal.verify(record) == {}
    done = continued(runs, "finished")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished already" in done.stdout
    assert run_trainer(runs, "checkpoints", "verify", "finished").returncode == 0


def test_the_report_of_an_old_run_is_made_again(runs):
    written = page.write(Record(runs / "runs" / "finished"))
    result = json.loads((runs / "runs" / "finished" / "result.json").read_text())
    assert f"{result['test_accuracy']:.2%}" in written.read_text()


@pytest.mark.slow
def test_old_weights_are_scored_as_they_were(runs):
    done = run_trainer(runs, "evaluate", "finished", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads((runs / "runs" / "finished" / "result.json").read_text())
    assert json.loads(done.stdout)["test_accuracy"] == pytest.approx(result["test_accuracy"], abs=0.001)
