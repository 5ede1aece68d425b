import json

import pytest
from typer.testing import CliRunner

from trainer import resolve
from trainer.cli import train as command
from trainer.cli.main import app
from trainer.driver import launch
from trainer.errors import ExitCode, OutageError, StorageError, TrainingError
from trainer.storage.record import Record
from trainer.training import fetch

RESULT = {
    "name": "r1", "status": "finished", "exit_code": 0, "test_accuracy": 0.9, "test_loss": 0.3,
    "class_accuracy": {"Bag": 0.9}, "seconds": {"training": 1.0, "wall": 2.0},
}  # fmt: skip


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run `trainer train` with a launch that ends in a given way; return its output and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("TRAINER_STORAGE", raising=False)

    def run(*options, ended=None, raises=None):
        def launched(plan, displays, log):
            if raises is not None:
                raise raises
            return ended

        monkeypatch.setattr(launch, "run", launched)
        return CliRunner().invoke(app, ["train", "--name", "r1", *options])

    return run


def last_json(done):
    return json.loads(done.stdout.splitlines()[-1])


def test_a_finished_run_shows_its_result(train):
    done = train(ended=launch.Ended(RESULT))
    assert done.exit_code == 0
    assert "Test accuracy 90.00%" in done.stdout
    assert "Report: runs/r1/report.html" in done.stdout


def test_a_finished_run_without_room_for_its_report_shows_its_result(train):
    failure = StorageError("report: runs cannot be written", "free space")
    done = train("--log-format", "json", ended=launch.Ended(RESULT, failure))
    assert done.exception is failure
    assert last_json(done) == {"event": "result", **RESULT}


@pytest.mark.parametrize("how", ["ended", "raises"])
def test_the_last_line_of_json_has_the_facts_of_the_failure(train, how):
    failure = OutageError("storage: s3://b is unreachable", "check the network")
    given = {"raises": failure} if how == "raises" else {"ended": launch.Ended({**RESULT, "status": "failed"}, failure)}
    done = train("--log-format", "json", **given)
    assert done.exception is failure
    assert last_json(done) == {"event": "result", "status": "failed", **failure.facts()}


def test_a_bug_is_the_last_line_of_json_too(train):
    done = train("--log-format", "json", raises=ValueError("oops"))
    assert isinstance(done.exception, ValueError)
    shown = last_json(done)
    assert (shown["exit_code"], shown["retry"], shown["problem"]) == (1, True, "ValueError: oops")


def test_a_failed_run_raises_its_error(train):
    failure = TrainingError("a worker died", retry=True)
    assert train(ended=launch.Ended({**RESULT, "status": "failed"}, failure)).exception is failure


def test_a_run_that_finished_before_is_shown_and_not_started(train, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.storage.seal.finished_result", lambda record: (RESULT, ("plots are gone.",)))
    Record(tmp_path / "runs" / "r1").create(resolve.load("fast"), {})
    done = train(raises=AssertionError("it was started"))
    assert "warning: plots are gone." in done.stdout
    assert "Run r1 is finished already, with this config." in done.stdout
    assert done.exit_code == 0


def test_a_dry_run_checks_and_starts_nothing(train, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "find_dataset", lambda folder, log: tmp_path)
    done = train("--dry-run", "--cpus-per-worker", "1", raises=AssertionError("it was started"))
    assert done.exit_code == 0
    assert "Run r1 can start: 237 steps, 1 CPU core per worker." in done.stdout


def test_from_needs_a_fork(train):
    done = train("--from", "best")
    assert done.exception.exit_code is ExitCode.CONFIG
    assert "name the new run with --fork" in str(done.exception)


def test_notes_are_lines_or_json(capsys):
    command._note("here", command.LogFormat.PLAIN)
    command._note("here", command.LogFormat.JSON)
    plain, line = capsys.readouterr().out.splitlines()
    assert plain == "here"
    assert json.loads(line).items() >= {"event": "message", "message": "here"}.items()
