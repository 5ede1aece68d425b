"""What the tests of recovery do to workers from inside; on their PYTHONPATH, Python imports it in every process.

In a worker it writes a line for each step that begins, and at some steps does what the test wants done, once. FAULTS
is JSON: ``trace``, the file of the lines; ``marks``, a folder with a file for each thing done; ``pace_s``, how long
each step takes at least; ``samples``, a file for lines that name the samples, too; ``plan``, a list of faults:
``do`` (see DO) before ``step`` on ``rank``.
"""

import importlib.abc
import json
import os
import signal
import sys
import time


class Faults:
    """This worker's part of the plan."""

    def __init__(self, settings):
        self.settings = settings
        self.gathered = self.group = None

    def patch(self):
        """Look on while the loop gathers batches and begins steps."""
        from dataclasses import replace

        from trainer.training import data, optimizer

        batches, schedule = data.Batches, optimizer.schedule

        def watched(samples, *arguments, **named):
            return batches(replace(samples, labels=Watched(samples.labels, self)), *arguments, **named)

        def beginning(config, step, total_steps):
            if self.gathered is not None:  # else the loop only asks before its first batch
                self.begins(step)
                self.gathered = None
            return float("nan") if self.poisons(step) else schedule(config, step, total_steps)

        data.Batches, optimizer.schedule = watched, beginning

    def begins(self, step):
        """Note it, and do what is due."""
        from ray.train import get_context

        rank = get_context().get_world_rank()
        self.group = self.group or name_group()
        line = {"time": time.time(), "group": self.group, "pid": os.getpid(), "rank": rank, "step": step}
        write(self.settings["trace"], line)
        if "samples" in self.settings:
            write(self.settings["samples"], {**line, "samples": self.gathered.tolist()})
        for number, fault in enumerate(self.settings.get("plan", ())):
            if (fault["step"], fault.get("rank", rank)) == (step, rank) and self.is_first(number):
                DO[fault["do"]]()
        time.sleep(self.settings.get("pace_s", 0.0))

    def poisons(self, step):
        """Whether this step makes the weights no numbers, though its own loss is one: on all ranks, each time."""
        return {"do": "poison", "step": step} in self.settings.get("plan", ())

    def is_first(self, number):
        """Whether it was not done before, by whichever worker."""
        try:
            os.close(os.open(f"{self.settings['marks']}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def write(file, line):
    """Append it, whole or not at all."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


def name_group():
    """A name that all workers of a group have in common, and no other group has."""
    from torch import distributed

    name = f"{os.getpid()}-{time.time()}"
    if not distributed.is_initialized():
        return name
    return distributed.distributed_c10d._get_default_store().compare_set("faults-group", "", name).decode()


class Watched:
    """The labels of a data set, which tell what is gathered of them."""

    def __init__(self, labels, faults):
        self.labels, self.faults = labels, faults

    def __len__(self):
        return len(self.labels)

    def index_select(self, dimension, rows):
        """As a tensor does it."""
        self.faults.gathered = rows
        return self.labels.index_select(dimension, rows)


def fail():
    """Raise what nobody has foreseen."""
    raise ValueError("the dog ate the batch")


def hang():
    """Be there, and do nothing any more."""
    while True:
        time.sleep(3600)


def eat():
    """Take more and more memory, until somebody puts an end to it."""
    eaten = []
    while True:
        eaten.append(b"x" * 50_000_000)
        time.sleep(0.02)


DO = {
    "poison": lambda: None,  # see Faults.poisons
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": fail,
    "hang": hang,
    "eat": eat,
    "exit137": lambda: os._exit(137),
}


class Finder(importlib.abc.MetaPathFinder):
    """Lets the loop be patched when it is imported, and no process pay for PyTorch that does not need it."""

    def find_spec(self, name, path, target=None):
        """Find nothing, but see what is looked for."""
        if name == "trainer.training.loop":
            sys.meta_path.remove(self)
            Faults(json.loads(os.environ["FAULTS"])).patch()


if "FAULTS" in os.environ and any("default_worker" in each for each in sys.orig_argv):
    sys.meta_path.insert(0, Finder())
