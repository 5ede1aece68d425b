"""The command line as a person uses it, against the test cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import kube
from support.kube import ROOT, kubectl

VALUES = str(ROOT / "k8s" / "kind" / "training.yaml")


@dataclass
class Command:
    """A command of the trainer that was started: its lines as they came, each with the time it came at."""

    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    ended_at: float = 0.0

    @property
    def text(self) -> str:
        """All it printed."""
        return "\n".join(line for _, line in self.lines)

    def saw(self, pattern: str) -> bool:
        """Whether it printed a line like this."""
        return any(re.search(pattern, line) for _, line in self.lines)

    def events(self) -> list[dict[str, Any]]:
        """What it printed with ``--log-format json``."""
        return [json.loads(line) for _, line in self.lines if line.startswith("{")]

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, seconds: float = 300) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.text}\n{kube.state()}") from None
        finally:
            self.ended_at = time.time()
            self._reader.join(10)

    def start_reading(self) -> Command:
        """Take its lines in, from a thread of its own."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as printed:
            for line in printed:
                self.lines.append((time.time(), line.rstrip("\n")))


def start(*arguments: str, kubeconfig: Path | None = None, log_format: str | None = "plain") -> Command:
    """Start ``trainer ...`` on the test cluster; without any credentials for the storage."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {"COLUMNS": "300", "NO_COLOR": "1"}
    if kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubeconfig)
    shown = ["--log-format", log_format] if log_format and arguments[0] == "submit" else []
    command = [sys.executable, "-m", "trainer", *arguments, "--context", kube.CONTEXT, *shown]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        bufsize=1,
    )
    return Command(process).start_reading()


def trainer(*arguments: str, seconds: float = 300, **options: Any) -> tuple[int, Command]:
    """Run ``trainer ...`` to its end: exit code, and what it printed."""
    command = start(*arguments, **options)
    return command.wait(seconds), command


@contextmanager
def chart(*settings: str) -> Iterator[None]:
    """The chart with other values, and as it was afterwards."""
    helm(*(word for each in settings for word in ("--set", each)))
    try:
        yield
    finally:
        helm()


def helm(*arguments: str, chart: Path = ROOT / "helm" / "training") -> None:
    """``helm upgrade`` of the chart, or another version of it, with kind's values and more."""
    command = ["helm", "--kube-context", kube.CONTEXT, "--namespace", "training", "upgrade", "training"]
    command += [str(chart), "--values", VALUES, *arguments]
    subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def remove(run: str) -> None:
    """Take a run's RayJob away, and wait until its cluster is gone: the next one needs the cores."""
    kubectl("delete", "rayjob", run, "--ignore-not-found")
    if left := pods_of(run):  # how they end by themselves is not what is tested here
        kubectl("delete", "pod", *left, "--ignore-not-found", "--grace-period=0", "--force")
    kube.wait_for(f"the pods of {run} are gone", lambda: not pods_of(run), 180)


def pods_of(run: str) -> list[str]:
    """Names of all pods of a run, those on their way out included."""
    names = [kube.name_of(pod) for pod in kube.get("pods", selector="app.kubernetes.io/part-of=fashion-mnist-on-ray")]
    return [name for name in names if name.startswith(f"{run}-")]
