"""What a comparison about faults needs besides a run: something that kills its workers, and an S3 server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine

from trainer.storage.record import read_lines

TRAINS_S = 2.0  # after each start, before it is killed again
BUCKET = "bench"


class Killer:
    """Kills a worker of a run again and again, each time when training has gone on for a while; then stops the run."""

    def __init__(self, kills: int):
        self._left = kills
        self._killed_at: list[float] = []
        self._over = threading.Event()

    def run(self, folder: Path) -> None:
        """Do it to the run whose record is in a folder, until there were enough kills or `stop` is called."""
        while not self._over.wait(0.05):
            starts = [each for each in read_lines(folder / "events.jsonl") if each["event"] == "training_started"]
            goes_on = len(starts) > len(self._killed_at)
            if goes_on and not self._left:
                os.kill(_processes("-m trainer train")[0], signal.SIGINT)  # as Ctrl-C does
                return
            ready = goes_on and time.time() > starts[-1]["started_at"] + TRAINS_S
            if ready and (workers := _processes("ray::RayTrainWorker")):
                self._killed_at.append(time.time())
                os.kill(workers[-1], signal.SIGKILL)
                self._left -= 1

    def stop(self) -> None:
        """Kill no more."""
        self._over.set()

    def numbers(self, events: list[dict[str, Any]], points: list[dict[str, Any]]) -> dict[str, float]:
        """Median seconds from a kill to the next step, the worst, their parts, and seconds of training done again."""
        starts = [event for event in events if event["event"] == "training_started"][1:]
        failures: dict[int, float] = {}
        for event in events:
            if event["event"] == "worker_failed":
                failures.setdefault(event["attempt"], event["time"])
        parts: dict[str, list[float]] = {"found": [], "new processes": [], "imports": [], "data and checkpoint": []}
        whole, redone = [], []
        for killed, start in zip(self._killed_at, starts, strict=True):
            found = failures[start["attempt"] - 1]
            marks = [killed, found, start["processes_began_at"], start["entered_at"], start["started_at"]]
            for name, before, after in zip(parts, marks, marks[1:], strict=False):
                parts[name].append(after - before)
            whole.append(start["started_at"] - killed)
            redone.append(killed - _reached_at(start["step"], [each for each in points if each["time"] <= killed]))
        medians = {name: statistics.median(seconds) for name, seconds in parts.items()}
        times = {"seconds": statistics.median(whole), "worst": max(whole), "kills": float(len(whole))}
        return {**times, **medians, "done again": statistics.median(redone), "done again, worst": max(redone)}


def _reached_at(step: int, points: list[dict[str, Any]]) -> float:
    """When a run had done so many steps: between two reports as if they were all equally long."""
    ahead = [point for point in points if point["step"] >= step]
    behind = [point for point in points if point["step"] < step]
    if not ahead:  # it was not reported any more
        return float(behind[-1]["time"])
    first, before = ahead[0], behind[-1] if behind else ahead[0]
    share = (step - before["step"]) / max(1, first["step"] - before["step"])
    return float(before["time"] + share * (first["time"] - before["time"]))


def _processes(title: str) -> list[int]:
    found = []
    for pid in machine.descendants():
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " "):
                found.append(pid)
    return sorted(found)


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """An S3 server of this machine with an empty bucket; the environment that leads to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not _made_bucket(url):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError("moto's server did not start; it is one of the development dependencies.")
            time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
        }
    finally:
        server.terminate()
        server.wait()


def _made_bucket(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=5).close()
    except (OSError, urllib.error.URLError):
        return False
    return True
