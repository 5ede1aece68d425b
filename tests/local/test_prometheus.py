"""A run on a Ray cluster that is there already, and what that cluster's metrics endpoint says of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.runs import SMALL

from trainer.observe.goodput import PARTS, account, began_at, worker_seconds
from trainer.observe.metrics import METRICS
from trainer.storage import layout
from trainer.storage.record import Record

TOKEN = "0123456789abcdef" * 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a driver on a standing cluster of two CPUs, and the address of its metrics."""
    port, metrics = free_port(), free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = f"--head --block --port {port} --metrics-export-port {metrics} --num-cpus 2 --include-dashboard=false"
    folder = tmp_path_factory.mktemp("ray")
    # Ray hands its interpreter's path to a shell as it is: one without spaces, wherever this environment is
    (folder / "venv").symlink_to(Path(sys.prefix))
    ray = [folder / "venv" / "bin" / "python", "-m", "ray.scripts.scripts"]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen([*ray, "start", *start.split()], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: scraped(metrics) is not None, 60)
        yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}, metrics
    finally:
        head.terminate()
        head.wait(60)


def scraped(port):
    """Metrics of run ``one`` by name, or None while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    found = re.findall(r"^(ray_trainer_\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    part = re.compile(r'part="(\w+)"')
    return {
        " ".join([name, *part.findall(labels)]): float(value) for name, labels, value in found if 'run="one"' in labels
    }


def wait_until(true, seconds, look=lambda: "it did not come true"):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, look()
        time.sleep(0.2)


@pytest.mark.slow
def test_the_last_values_are_those_of_the_record_and_stay_to_be_scraped(cluster, tmp_path, data_folder):
    environment, port = cluster
    environment = {**environment, "TRAINER_LAST_SCRAPE_S": "12"}
    command = [sys.executable, "-m", "trainer", "train", "--name", "one", *SMALL, "--set", "epochs=2"]
    printed = tmp_path / "printed"
    with printed.open("w") as out:
        running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
    record = Record(tmp_path / "runs" / "one")
    wait_until(lambda: record.file(layout.REPORT).exists() or running.poll() is not None, 180)
    assert running.poll() is None, printed.read_text()
    last = record.points()[-1]
    seen, until = record.events(), record.events()[-1]["time"]
    parts, used = account(seen, record.points(), until), worker_seconds(seen, record.points(), until)
    values = {m.exported: last[m.key] for m in METRICS if m.key in last} | {
        "ray_trainer_progress_ratio": 1.0,
        "ray_trainer_eta_seconds": 0.0,
        "ray_trainer_start_timestamp_seconds": began_at(seen),
        "ray_trainer_workers_wanted": 1.0,
        "ray_trainer_worker_failures": 0.0,
        "ray_trainer_preemptions": 0.0,
        "ray_trainer_rollbacks": 0.0,
        "ray_trainer_storage_away": 0.0,
        "ray_trainer_goodput_ratio": parts["goodput"],
        "ray_trainer_paid_worker_seconds": used["all"],
        "ray_trainer_productive_worker_seconds": used["productive"],
        "ray_trainer_info": 1.0,
    }
    expected = {name: pytest.approx(value) for name, value in values.items()}
    expected |= {f"ray_trainer_time_seconds {part}": pytest.approx(parts[part]) for part in PARTS}
    wait_until(lambda: scraped(port) == expected, 8, lambda: (scraped(port), expected))
    assert running.wait(60) == 0
    assert json.loads(record.file(layout.RESULT).read_text())["status"] == "finished"
    wait_until(lambda: scraped(port) == {}, 30)  # a run that is over is not shown as if it went on
