import json
import shlex

import pytest
from typer.testing import CliRunner

from trainer import resolve
from trainer.cli import train as command
from trainer.cli.main import app
from trainer.config import differences
from trainer.driver import launch
from trainer.errors import ExitCode, InterruptedRunError, OutageError, StorageError, TrainingError
from trainer.storage import checkpoints
from trainer.storage.checkpoints import Checkpoint
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


def test_a_run_is_named_before_anything_else_is_said(train):
    assert train(ended=launch.Ended(RESULT)).stdout.splitlines()[0] == "Run r1: runs/r1"


def test_a_run_is_named_in_json_too(train):
    done = train("--log-format", "json", ended=launch.Ended(RESULT))
    assert json.loads(done.stdout.splitlines()[0])["message"] == "Run r1: runs/r1"


GIVEN = ["--recipe", "seed", "--set", "model.hidden=[8, 8]", "--set", "epochs=2", "--workers", "1", "--cpu"]


def continuing(error):
    """The words of the command that an error ends with."""
    before, _, line = error.then.partition(": ")
    assert before == "To continue it"
    return shlex.split(line)


@pytest.mark.parametrize("how", ["ended", "raises", "ctrl-c"])
def test_a_run_that_ends_early_gives_the_command_that_continues_it(train, how):
    failure = InterruptedRunError("Stopped")
    ways = {
        "ended": {"ended": launch.Ended({**RESULT, "status": "interrupted"}, failure)},
        "raises": {"raises": failure},
        "ctrl-c": {"raises": KeyboardInterrupt()},
    }
    done = train(*GIVEN, "--storage", "my runs", **ways[how])
    words = continuing(done.exception)
    assert words[:4] == ["trainer", "train", "--name", "r1"]
    again = train(*words[4:], ended=launch.Ended(RESULT))  # it is parsed, and means the same run
    assert again.stdout.splitlines()[0] == "Run r1: my runs/r1"
    assert sorted(words[2:]) == sorted(["--name", "r1", *GIVEN, "--storage", "my runs"])


def test_a_run_without_a_name_is_continued_by_the_name_it_got(train):
    done = train("--name", "", raises=InterruptedRunError("Stopped"))
    name = done.stdout.splitlines()[0].split()[1].rstrip(":")
    assert name.startswith("fast-")
    assert continuing(done.exception) == ["trainer", "train", "--name", name]


@pytest.fixture
def source(tmp_path):
    """The run r0 with a checkpoint at step 5, made with settings of its own."""
    settings = ["epochs=4", "model.hidden=[16]", "data.flip=random"]
    record = Record(tmp_path / "runs" / "r0")
    record.create(resolve.load("fast", None, settings), {})
    checkpoints.commit(record.place, Checkpoint(5, 1), dict.fromkeys(checkpoints.FILES, b"x"), {})
    return record


def forked(train, monkeypatch, *arguments, raises=None):
    plans = []

    def launched(plan, displays, log):
        plans.append(plan)
        if raises is not None:
            raise raises
        return launch.Ended(RESULT)

    train(ended=launch.Ended(RESULT))  # for its environment
    monkeypatch.setattr(launch, "run", launched)
    done = CliRunner().invoke(app, ["fork", *arguments])
    return done, plans


def test_a_fork_has_the_settings_of_its_source_but_for_those_given(train, monkeypatch, source):
    done, (plan,) = forked(train, monkeypatch, "r0", "r1", "--set", "optimizer.lr=0.02")
    assert differences(source.config(), plan.config) == ["optimizer.lr: 0.2 → 0.02"]
    assert (plan.record.name, plan.fork.checkpoint.step) == ("r1", 5)
    said = "Fork of r0 at step-00000005-0001. Changed settings: optimizer.lr: 0.2 → 0.02."
    assert done.stdout.splitlines()[:2] == [said, "Run r1: runs/r1"]


def test_a_fork_with_a_file_takes_its_settings_over_the_sources(train, monkeypatch, source, tmp_path):
    (tmp_path / "more.yaml").write_text("epochs: 9\nseed: 3\n")
    _, (plan,) = forked(train, monkeypatch, "r0", "r1", "--config", "more.yaml", "--set", "seed=4")
    assert differences(source.config(), plan.config) == ["seed: 0 → 4", "epochs: 4 → 9"]


def test_a_fork_without_changes_says_so(train, monkeypatch, source):
    done, _ = forked(train, monkeypatch, "r0", "r1")
    assert "Changed settings: none." in done.stdout


def test_a_fork_that_ends_early_is_continued_as_a_fork(train, monkeypatch, source):
    given = ["fork", "r0", "r1", "--set", "seed=4", "--from", "step-00000005-0001"]
    done, _ = forked(train, monkeypatch, *given[1:], raises=InterruptedRunError("Stopped"))
    assert continuing(done.exception) == ["trainer", *given]


def test_a_fork_of_no_run_is_refused(train, monkeypatch):
    done, _ = forked(train, monkeypatch, "r9", "r1")
    assert done.exception.exit_code is ExitCode.STORAGE


def test_notes_are_lines_or_json(capsys):
    command._note("here", command.LogFormat.PLAIN)
    command._note("here", command.LogFormat.JSON)
    plain, line = capsys.readouterr().out.splitlines()
    assert plain == "here"
    assert json.loads(line).items() >= {"event": "message", "message": "here"}.items()
