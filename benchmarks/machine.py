"""The machine that a comparison runs on: what it is, and who uses its processors meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer.driver import environment

LOOK_EVERY_S = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def describe() -> dict[str, Any]:
    """Hardware, versions and commit."""
    return {**environment.describe(), "torchvision": version("torchvision"), "cores": os.cpu_count()}


def adopt_orphans() -> None:
    """Let processes whose parent died become children of this one: so all that a side started can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Watch:
    """Counts, while it is open, the processor time of this process and all its descendants, and of the others.

    It looks a few times a second: what a process used after the last look before its end counts as of others. With
    `titles` it also notes in `seen` when the command line of a descendant first held each of these words.
    """

    def __init__(self, titles: tuple[str, ...] = ()):
        self.seen: dict[str, float] = {}
        self._titles = titles
        self._used: dict[tuple[int, int], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Watch:
        self._before = self._look()
        self._busy, self._began = _busy_ticks(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.seconds = time.monotonic() - self._began
        ours = sum(ticks - self._before.get(process, 0) for process, ticks in self._used.items())
        busy = _busy_ticks() - self._busy
        self.ours = ours / TICKS / self.seconds
        self.others = max(0.0, (busy - ours) / TICKS / self.seconds)
        self.load = os.getloadavg()[0]

    def _look_on(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> dict[tuple[int, int], int]:
        for pid, (_, started, ticks) in descendants().items():
            self._used[pid, started] = ticks
            if self._titles:
                self._read_title(pid)
        return dict(self._used)

    def _read_title(self, pid: int) -> None:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return
        for title in self._titles:
            if title in command:
                self.seen.setdefault(title, time.time())


def descendants() -> dict[int, tuple[int, int, int]]:
    """This process and all below it: pid to parent, start (ticks since boot) and processor time used (ticks)."""
    processes = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue  # it ended
            processes[int(entry.name)] = (int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]))
    ours = {os.getpid()}
    while more := {pid for pid, (parent, _, _) in processes.items() if parent in ours} - ours:
        ours |= more
    return {pid: processes[pid] for pid in ours if pid in processes}


def end_descendants() -> None:
    """End what a side left running: kindly, then not; and take leave of the dead."""
    for how, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        _bury()
        for pid in descendants().keys() - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        until = time.monotonic() + patience_s
        while len(descendants()) > 1 and time.monotonic() < until:
            _bury()
            time.sleep(0.05)


def _bury() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _busy_ticks() -> int:
    # user, nice, system, (idle, iowait,) irq, softirq, steal: a stolen tick is lost to us like one of another process
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[:3]) + sum(fields[5:8])
