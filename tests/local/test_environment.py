"""What people's machines do to a run: variables, modules of their own, clusters that do not answer; and Ctrl-C then."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import proxy, ray_cluster
from support.object_store import s3_server
from support.runs import run_trainer

from trainer.errors import ExitCode
from trainer.storage import mirror

ROOT = Path(__file__).parents[2]
SMALL = ["--set", "model.hidden=[16]", "--set", "epochs=1", "--set", "global_batch_size=6000"]
ENDS_WITHIN_S = 15.0  # it promises five seconds, and a busy machine may take longer


def uv():
    return shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv" / "bin"))


def test_a_run_succeeds_whatever_a_users_environment_says(tmp_path, data_folder):
    for name in ("trainer", "config", "ray", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the {name}.py of a user')\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.10"\n')
    environment = {
        "PYTHONPATH": str(ROOT),
        "VIRTUAL_ENV": sys.prefix,
        "TMPDIR": str(tmp_path / ("long" * 20)),
        "MPLBACKEND": "of_another_matplotlib",
        "PYTHONWARNINGS": "error",
        "PYTHONDEVMODE": "1",
        "RAY_TRAIN_V2_ENABLED": "0",
        "RAY_RUNTIME_ENV_HOOK": "a_users.hook",
        "RAY_ADDRESS": "",
        "MASTER_ADDR": "slurm.invalid",
        "RANK": "7",
        "WORLD_SIZE": "64",
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "0",
    }
    (tmp_path / ("long" * 20)).mkdir()
    by_uv = [uv(), "run", "--active", "--no-sync"] if uv() else []
    script = [str(Path(sys.prefix) / "bin" / "trainer")]
    done = subprocess.run(
        [*by_uv, *script, "train", "--name", "r", "--data", str(data_folder), *SMALL],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert mirror.find_run("r", str(tmp_path / "runs")).result()["status"] == "finished"


@pytest.mark.slow  # it waits a minute for nodes
def test_a_cluster_without_room_is_said_and_given_up(tmp_path, data_folder):
    folder = tmp_path / "cluster"
    folder.mkdir()
    with ray_cluster.cluster(folder, {}) as cluster:
        began = time.monotonic()
        done = run_trainer(
            tmp_path,
            "train",
            "--name",
            "r",
            "--workers",
            "2",
            "--data",
            str(data_folder),
            *SMALL,
            **cluster.environment,
        )
    assert done.returncode == ExitCode.RESOURCES, done.stdout + done.stderr
    needs = "2 workers need 1 CPU each; the Ray cluster has room for 1 (1 node with 1 CPU and 0 GPU); no autoscaler"
    assert f"pending: {needs}" in done.stdout
    assert needs in done.stderr
    assert time.monotonic() - began < 300  # not without end


@contextmanager
def a_silent_server():
    """Something that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def interrupted(tmp_path):
    """Start a run, send it Ctrl-C once `reached`: its exit code, and what it printed."""

    def run(reached, *options, **environment):
        with subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", "--name", "r", *SMALL, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                reached()
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=ENDS_WITHIN_S)
            finally:
                process.kill()
        return process.returncode, out

    return run


def test_ctrl_c_ends_a_run_that_reads_its_data(interrupted, tmp_path):
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")  # opening it waits for a writer
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(b"")

    opened = []

    def reached():  # returns when the run has opened it, and keeps it open: the run waits for bytes
        opened.append(os.open(tmp_path / "train-images-idx3-ubyte", os.O_WRONLY))

    try:
        code, out = interrupted(reached, "--data", str(tmp_path))
    finally:
        os.close(opened[0])
    assert code == ExitCode.INTERRUPTED, out


def test_ctrl_c_ends_a_run_that_joins_a_silent_cluster(interrupted, data_folder, tmp_path):
    with a_silent_server() as (listening, address):

        def reached():
            listening.accept()[0].close()  # of the check; Ray itself takes another address of this machine
            while not (record := mirror.open_record(str(tmp_path / "runs" / "r"))).exists() or not record.events():
                time.sleep(0.02)

        code, out = interrupted(reached, "--data", str(data_folder), RAY_ADDRESS=address)
    assert code == ExitCode.INTERRUPTED, out


def test_ctrl_c_ends_a_run_whose_store_never_answers(interrupted, data_folder):
    with s3_server() as server, proxy.before(server["AWS_ENDPOINT_URL"]) as between:
        between.fault = proxy.HOLE

        def reached():
            while not between.failed:
                time.sleep(0.02)

        code, out = interrupted(
            reached,
            "--data",
            str(data_folder),
            "--storage",
            "s3://runs/p",
            **{**server, "AWS_ENDPOINT_URL": between.endpoint},
        )
    assert code == ExitCode.INTERRUPTED, out
