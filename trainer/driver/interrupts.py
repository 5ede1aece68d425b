"""Ctrl-C ends a command within seconds, whatever it is doing: also in calls of C code that hear no signal for minutes.

Python raises KeyboardInterrupt in the main thread only when the call that runs there returns. Until then a thread
waits, which the C level of Python's signal handling wakes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from trainer.errors import ExitCode, TrainerError

ENDS_WITHIN_S = 4.0  # then what is left is killed
LAST_ACTS_S = 0.8  # for all of them: one may hang for the same reason as the command

_last_acts: list[Callable[[], None]] = []
_folders: list[str] = []
_reason: list[TrainerError] = []


@contextmanager
def bounded() -> Iterator[None]:
    """End the process with its children soon after the first Ctrl-C, if it does not end by itself before."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reader, over), name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        reader.close()
        writer.close()


@contextmanager
def at_last(act: Callable[[], None]) -> Iterator[None]:
    """While it lasts, call `act` before the process is killed."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


@contextmanager
def removed_at_last(folder: str) -> Iterator[None]:
    """While it lasts, remove `folder` after the process's children were killed."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.remove(folder)


def give_up(error: TrainerError) -> None:
    """End the command from another thread than the main one, as Ctrl-C would, with this error."""
    _reason.append(error)
    os.kill(os.getpid(), signal.SIGINT)


def reason() -> TrainerError | None:
    """Return the error that a thread gave up with; None if it was Ctrl-C."""
    return _reason[0] if _reason else None


def _watch(reader: socket.socket, over: threading.Event) -> None:
    with suppress(OSError):  # closed: the command has ended
        while received := reader.recv(1):
            if received[0] == signal.SIGTERM:  # Kubernetes and systemd have their own, longer patience
                return
            if received[0] == signal.SIGINT:
                break
        if not received or over.wait(ENDS_WITHIN_S):
            return
        acts = threading.Thread(target=_act_at_last, daemon=True)
        acts.start()
        acts.join(LAST_ACTS_S)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        for folder in _folders:
            shutil.rmtree(folder, ignore_errors=True)
        error = reason()
        last_words = f"Error: {error}" if error else "Stopped: what did not end by itself was killed."
        os.write(2, f"\n{last_words}\n".encode())
        os._exit(error.exit_code if error else ExitCode.INTERRUPTED)


def _act_at_last() -> None:
    for act in reversed(_last_acts):
        with suppress(Exception):  # the others are still to be called
            act()
