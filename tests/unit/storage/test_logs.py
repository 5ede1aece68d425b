import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import NoSuchRunError, StorageError
from trainer.storage import logs, store

WORKER = """
import sys, time
from trainer.storage import logs
logs.WRITE_EVERY_S = 0.05
files = {f"worker-0.{name}": file for name, file in logs.own_outputs(out=1, err=2).items()}
with logs.Keeper(sys.argv[1], 3, files):
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    exec(sys.argv[2])
"""


def run_worker(run, tmp_path, code, check=True):
    """A process that keeps its output as a worker of Ray does, whose output goes to files."""
    with (tmp_path / "w.out").open("w") as out, (tmp_path / "w.err").open("w") as err:
        command = [sys.executable, "-c", WORKER, str(run), code]
        environment = {**os.environ, "PYTHONPATH": str(Path(logs.__file__).parents[2])}
        return subprocess.run(command, stdout=out, stderr=err, env=environment, check=check)


@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "runs" / "r1")


@pytest.mark.server
def test_what_a_worker_printed_is_kept_with_its_traceback(run, tmp_path):
    run_worker(run, tmp_path, "raise RuntimeError('it broke')", check=False)
    printed = logs.lines(run, "worker-0")
    assert printed[0] == "to stderr"
    assert "RuntimeError: it broke" in printed
    assert printed[-1] == "to stdout"


@pytest.mark.server
def test_output_is_kept_while_the_process_lives(run, tmp_path):
    seen = "import pathlib; f = pathlib.Path(sys.argv[1]) / 'logs/attempt-3/worker-0.out'\n"
    run_worker(run, tmp_path, seen + "while not f.exists(): time.sleep(0.01)\nimport os; os._exit(0)")
    assert "to stdout" in logs.lines(run, "worker-0")


def test_a_terminal_or_a_pipe_is_no_file_of_output(tmp_path):
    reader, writer = os.pipe()
    file = tmp_path / "out"
    with file.open("w") as out:
        assert logs.own_outputs(pipe=writer, file=out.fileno(), missing=9999) == {"file": file}
    os.close(reader)
    os.close(writer)


def test_only_the_end_of_a_long_file_is_kept_from_a_lines_start(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_BYTES", 10)
    (tmp_path / "out").write_text("first line\nsecond line\nthird\n")
    assert logs.end_of(tmp_path / "out") == b"third\n"
    monkeypatch.setattr(logs, "MOST_BYTES", 1000)
    assert logs.end_of(tmp_path / "out").startswith(b"first line\n")


def test_a_file_that_is_gone_or_empty_is_left_out(run, tmp_path):
    (tmp_path / "empty").touch()
    logs.keep({"a.out": tmp_path / "missing", "b.out": tmp_path / "empty"}, logs.folder(run, 1))
    assert logs.attempts(run) == []


def test_a_storage_that_is_away_ends_no_run(tmp_path, monkeypatch):
    def away(*_):
        raise StorageError("storage: away")

    monkeypatch.setattr(store, "write", away)
    (tmp_path / "out").write_text("x\n")
    with logs.Keeper(str(tmp_path), 1, {"worker-0.out": tmp_path / "out"}):
        pass


@pytest.fixture
def kept(run):
    """A run of three attempts, the second with two workers."""
    for attempt, names in ((1, ["worker-0.out"]), (2, ["worker-0.out", "worker-1.err"]), (10, ["driver.log"])):
        for name in names:
            store.write(f"{logs.folder(run, attempt)}/{name}", f"{name} of {attempt}\n\x80\n".encode("latin-1"))
    return run


def test_the_newest_attempt_that_has_the_process_is_read(kept):
    assert logs.lines(kept, "worker-0") == ["worker-0.out of 2", "\ufffd"]
    assert logs.lines(kept, "worker-0", attempt=1) == ["worker-0.out of 1", "\ufffd"]
    assert logs.lines(kept, "driver")[0] == "driver.log of 10"


def test_an_output_that_is_not_kept_is_said_with_those_that_are(kept, tmp_path):
    with pytest.raises(NoSuchRunError) as caught:
        logs.lines(kept, "worker-7", attempt=2)
    assert "no output of attempt 2 of worker 7" in caught.value.problem
    assert caught.value.fix == "it has that of attempt 2: worker 0, worker 1"
    with pytest.raises(NoSuchRunError, match="no output of driver"):
        logs.lines(str(tmp_path / "none"), "driver")


def test_the_keeper_that_prunes_removes_the_logs_of_old_attempts(kept, monkeypatch):
    monkeypatch.setattr(logs, "MOST_ATTEMPTS", 2)
    with logs.Keeper(kept, 11, {}):
        pass
    assert logs.attempts(kept) == [1, 2, 10]
    with logs.Keeper(kept, 11, {}, prunes=True):
        pass
    assert logs.attempts(kept) == [10]


def test_only_the_logs_of_the_newest_attempts_stay(kept, monkeypatch):
    monkeypatch.setattr(logs, "MOST_ATTEMPTS", 9)
    logs.prune(kept, newest=10)
    assert logs.attempts(kept) == [2, 10]
    assert not Path(logs.folder(kept, 1)).exists()
