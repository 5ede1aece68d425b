"""How long `trainer list` and `trainer report --all` take on a bucket of a thousand runs, and how many requests.

The bucket is a folder behind versitygw (`make stores`, or on the PATH), with a counting proxy in between:

    python benchmarks/list_runs.py --runs 1000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import proxy  # noqa: E402 # the proxy of the tests

from trainer.config import Config  # noqa: E402

RESULT = {
    "status": "finished",
    "exit_code": 0,
    "test_accuracy": 0.9,
    "test_loss": 0.3,
    "epochs": 4,
    "steps": 472,
    "workers": 2,
    "attempt": 1,
    "seconds": {"wall": 30.0},
    "goodput": {"wall": 30.0, "goodput": 0.8},
}


def main() -> None:
    """Make the runs, time both commands, print one line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    gateway = shutil.which("versitygw", path=f"{ROOT / '.stores' / 'bin'}:{os.environ['PATH']}")
    if gateway is None:
        sys.exit("versitygw is neither on the PATH nor in .stores: make stores")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            run = Path(folder) / "data" / "bucket" / f"run-{number}"
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(Config(seed=number).to_yaml())
            times = {"started_at": 1.7e9 + number, "ended_at": 1.7e9 + number + 30}
            (run / "result.json").write_text(json.dumps({"name": run.name, **RESULT, **times}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        keys = {"ROOT_ACCESS_KEY": "benchmark", "ROOT_SECRET_KEY": "benchmark"}
        command = [gateway, "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--nometa", f"{folder}/data"]
        server = subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL)
        try:
            measure(f"http://127.0.0.1:{port}", folder, options.rounds)
        finally:
            server.kill()


def measure(endpoint: str, folder: str, rounds: int) -> None:
    """Time each command so many times."""
    with proxy.before(endpoint) as between:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": between.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "PYTHONPATH": str(ROOT),
        }
        for words in (["list"], ["report", "--all", "--output", folder]):
            seconds, requests = [], 0
            for _ in range(rounds):
                before, began = between.requests, time.monotonic()
                command = [sys.executable, "-m", "trainer", *words, "--storage", "s3://bucket"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                seconds.append(time.monotonic() - began)
                requests = between.requests - before
            times = ", ".join(f"{each:.1f}" for each in sorted(seconds))
            print(f"trainer {' '.join(words[:2])}: {times} s, {requests} requests")


if __name__ == "__main__":
    main()
