"""A Ray cluster of several nodes on this machine, whose nodes come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.object_store import free_port

TOKEN = "0123456789abcdef" * 4


class Cluster:
    """The head, with one CPU; `environment` is a driver's."""

    def __init__(self, folder: Path, of_workers: dict[str, str]):
        self._folder, self._of_workers = folder, of_workers
        self._port = free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"127.0.0.1:{self._port}",
        }
        # Ray hands its interpreter's path to a shell as it is: one without spaces, wherever this environment is
        (folder / "venv").symlink_to(Path(sys.prefix))
        self._start("--head", "--port", str(self._port), "--include-dashboard=false", "--num-cpus", "1")

    def add_node(self, cpus: int = 1) -> subprocess.Popen[bytes]:
        """One more node, as a pod that joins."""
        return self._start("--address", self.environment["RAY_ADDRESS"], "--num-cpus", str(cpus))

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [self._folder / "venv" / "bin" / "python", "-m", "ray.scripts.scripts", "start", "--block", *options]
        environment = {key: value for key, value in self.environment.items() if key != "RAY_ADDRESS"}
        with (self._folder / f"node-{len(self.nodes)}").open("wb") as log:
            node = subprocess.Popen(
                [*command, "--object-store-memory", str(100 * 2**20)],
                env={**os.environ, **environment, **self._of_workers},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(node)
        self._wait(lambda: "--block" in self.log(node), node)
        return node

    def log(self, node: subprocess.Popen[bytes]) -> str:
        """What a node has printed."""
        return (self._folder / f"node-{self.nodes.index(node)}").read_text()

    def _wait(self, true, node) -> None:
        until = time.monotonic() + 60
        while not true():
            assert node.poll() is None, self.log(node)
            assert time.monotonic() < until, self.log(node)
            time.sleep(0.05)

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """The power fails there: all its processes are gone at once."""
        everyone = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for each in everyone:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                each.kill()
        node.wait(30)

    def stop(self) -> None:
        """All nodes, the last first."""
        for node in reversed(self.nodes):
            if node.poll() is None:
                self.lose(node)


@contextmanager
def cluster(folder: Path, of_workers: dict[str, str]) -> Iterator[Cluster]:
    """A cluster as long as it is needed; `of_workers` is in the environment of its nodes and so of their workers."""
    running = Cluster(folder, of_workers)
    try:
        yield running
    finally:
        running.stop()
