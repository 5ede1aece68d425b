"""Many runs one after another, and many at once, leave nothing behind: no process, folder, port or shared memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.runs import SMALL, result_of, run_trainer

SHORT = [*SMALL, "--set", "epochs=1", "--set", "model.hidden=[16]", "--cpus-per-worker", "1"]


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files of these runs alone, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def left_behind(temporary):
    """What this machine has that a run may leave: processes, temporary files, shared memory, open ports."""
    ours = [process for process in psutil.process_iter(["cmdline"]) if is_of_a_run(process.info["cmdline"] or [])]
    return {
        "processes": {process.pid for process in ours},
        "temporary files": {path.name for folder in (temporary, Path("/tmp/ray")) for path in folder.glob("*")},
        "shared memory": {path.name for path in Path("/dev/shm").iterdir()},  # where Ray keeps its objects
        "ports": {
            connection.laddr.port
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid in {process.pid for process in ours}
        },
    }


def is_of_a_run(command):
    text = " ".join(command)
    return text.startswith("ray::") or "/ray/core/src/ray/" in text or "-m trainer train" in text


def train(folder, name):
    done = run_trainer(folder, "train", "--name", name, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    return result_of(folder, name)["status"]


def test_runs_one_after_another_leave_nothing_behind(tmp_path, temporary, request, note):
    times = 200 if request.config.getoption("--soak") else 5
    train(tmp_path, "first")  # caches and the like
    before = left_behind(temporary)
    assert {train(tmp_path, f"r{number}") for number in range(times)} == {"finished"}
    after = left_behind(temporary)
    assert {kind: after[kind] - before[kind] for kind in after} == {kind: set() for kind in after}
    note(f"{times} runs one after another", "no process, temporary file, shared memory or port is left", times=times)


def test_runs_at_once_in_one_storage_leave_nothing_behind(tmp_path, temporary, request, note):
    times = 20 if request.config.getoption("--soak") else 4
    at_once = min(
        times, max(2, psutil.virtual_memory().available // (2 * 2**30))
    )  # each run needs a gigabyte and a half
    before = left_behind(temporary)
    with ThreadPoolExecutor(at_once) as pool:
        ended = list(pool.map(lambda number: train(tmp_path, f"r{number}"), range(times)))
    assert ended == ["finished"] * times
    after = left_behind(temporary)
    assert {kind: after[kind] - before[kind] for kind in after} == {kind: set() for kind in after}
    note(
        f"{times} runs in one storage, {at_once} at a time",
        "all finish; no process, temporary file, shared memory or port is left",
        times=times,
    )


def test_a_killed_driver_leaves_no_process(tmp_path, temporary):
    before = left_behind(temporary)
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        "--name",
        "r",
        *SHORT,
        "--set",
        "epochs=200",
        "--log-format",
        "json",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if '"training_started"' in line:
                break
        process.kill()
    gone = [
        psutil.Process(pid)
        for pid in left_behind(temporary)["processes"] - before["processes"]
        if psutil.pid_exists(pid)
    ]
    _, alive = psutil.wait_procs(gone, timeout=180)  # Ray's agents look for its lost parts for a minute
    assert alive == []
