"""Fault injection into workers, through the training loop's step hook: ``TRAINER_STEP_HOOK=support.inject:on_step``.

At each step a worker writes a line, and at some steps does what the test wants done, once. The environment variable
FAULTS is JSON: ``trace``, the file for the lines; ``marks``, a folder with a file for each fault done; ``pace_s``, how
long each step takes at least; ``samples``, a file for lines that name the samples, too; ``plan``, a list of faults:
``do`` (see DO) before ``step``, on ``rank`` or on whichever rank comes first.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

from ray.train import get_context
from torch import distributed

from trainer.training.data import Batch


def on_step(batch: Batch) -> Batch:
    """Write the step down, and do what the plan says."""
    settings = json.loads(os.environ["FAULTS"])
    rank = get_context().get_world_rank()
    line = {"time": time.time(), "group": group_name(), "pid": os.getpid(), "rank": rank, "step": batch.step}
    append(settings["trace"], line)
    if "samples" in settings:
        append(settings["samples"], {**line, "samples": batch.rows.tolist()})
    for number, fault in enumerate(settings.get("plan", ())):
        if (fault["step"], fault.get("rank", rank)) != (batch.step, rank):
            continue
        if fault["do"] == "poison":  # on all ranks, and again when the step is done again
            batch = poisoned(batch)
        elif is_first(f"{settings['marks']}/{number}"):
            DO[fault["do"]]()
    time.sleep(settings.get("pace_s", 0.0))
    return batch


def append(file: str, line: dict[str, Any]) -> None:
    """Append a line in one write, so that lines of several processes do not mix."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


@cache
def group_name() -> str:
    """Return a name that all workers of a group share, and no other group has."""
    name = f"{os.getpid()}-{time.time()}"
    if not distributed.is_initialized():
        return name
    return distributed.distributed_c10d._get_default_store().compare_set("faults-group", "", name).decode()


def is_first(mark: str) -> bool:
    """Return whether no worker has done this fault before."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def poisoned(batch: Batch) -> Batch:
    """Return a batch whose loss is finite and whose gradients are NaN."""
    return replace(batch, weight=float("nan"))


def kill() -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> NoReturn:
    """Raise an error that nobody expects."""
    raise ValueError("the dog ate the batch")


def hang() -> NoReturn:
    """Stay alive without doing anything."""
    while True:
        time.sleep(3600)


def eat() -> NoReturn:
    """Take more and more memory until the process is ended."""
    eaten = []
    while True:
        eaten.append(b"x" * 50_000_000)
        time.sleep(0.02)


def exit_137() -> NoReturn:
    """Exit as a process does that a container runtime kills."""
    os._exit(137)


DO = {"kill": kill, "raise": fail, "hang": hang, "eat": eat, "exit137": exit_137}
