"""A run in the background to which things are done, and what can be seen of it from outside."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from trainer.storage import checkpoints, layout, record, store

TESTS = Path(__file__).parent.parent
# 6 epochs of 10 steps; dropout, so that the random numbers matter; Muon, so that the optimizer has a state
RUN = ["--recipe", "fast", "--set", "model.dropout=0.3", "--set", "global_batch_size=6000", "--set", "epochs=6"]
RUN += ["--set", "precision=fp32"]
STEPS = 60
OFTEN = ["--set", "checkpoint.every_s=0"]
TRACE, SAMPLES, MARKS = "trace", "samples", "marks"  # in a run's folder: what workers did, and what was done to them
Line = dict[str, Any]


def injected(folder: Path, **faults: Any) -> dict[str, str]:
    """Return the environment that injects faults into Ray's workers; every node of a cluster needs it."""
    (folder / MARKS).mkdir(exist_ok=True)
    settings = {"trace": str(folder / TRACE), "marks": str(folder / MARKS), **faults}
    return {
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "TRAINER_STEP_HOOK": "support.inject:on_step",
        "FAULTS": json.dumps(settings),
    }


def state_of(place: str) -> dict[str, str]:
    """What became of the run there: hashes of its weights, and of its last checkpoint: model, optimizer and RNG."""
    found = checkpoints.newest_valid(place, lambda which, damage: (_ for _ in ()).throw(AssertionError(damage)))
    assert found is not None
    which, files, _ = found
    weights = store.read(store.join(place, layout.WEIGHTS)) or b""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in {**files, "final": weights}.items()}
    return {**hashes, "step": str(which.step)}


class Training:
    """`trainer train` of the run ``r`` in a process of its own, in `folder`; `faults` as in support/inject.

    `storage` is where its runs are as the test sees them: the test looks past a proxy.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        storage: str | None = None,
        environment: dict[str, str] | None = None,
        **faults: Any,
    ):
        self.folder = folder
        self.place = f"{storage or folder / 'runs'}/r"
        self._trace = folder / TRACE
        self.marks = folder / MARKS
        where = ["--storage", storage] if storage else []
        self._output = (folder / f"output-{len(list(folder.glob('output-*')))}").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", "--name", "r", *RUN, *where, *options],
            cwd=folder,
            env={**os.environ, **injected(folder, **faults), **(environment or {})},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()

    def kill_all(self) -> None:
        """SIGKILL to the driver, and to all of the Ray cluster that it started."""
        everyone = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for each in everyone:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(everyone, 30)
        self.process.wait(30)

    def output(self) -> str:
        """All it has printed."""
        return Path(self._output.name).read_text()

    def ends(self, seconds: float = 300) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over in {seconds} s: {self.output()} {self.lines()[-3:]}") from None

    def until(self, true: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait until something is true while it trains; what it then is."""
        end = time.monotonic() + seconds
        while not (found := true()):
            assert self.process.poll() is None, f"the run ended: {self.output()}"
            assert time.monotonic() < end, f"it did not come true in {seconds} s: {self.output()}"
            time.sleep(0.02)
        return found

    def lines(self) -> list[Line]:
        """Every step that a worker began, as it did."""
        return list(record.read_lines(self._trace))

    def trains(self, step: int) -> list[Line]:
        """The lines of its newest group of workers, once that has begun a step as late as this."""
        return self.until(lambda: [line for line in self.newest() if line["step"] >= step])

    def newest(self) -> list[Line]:
        """The lines of the group of workers that began last."""
        lines = self.lines()
        return [line for line in lines if line["group"] == lines[-1]["group"]]

    def pid(self, rank: int = 0) -> int:
        """The process of one of the workers of the newest group."""
        return self.until(lambda: [line["pid"] for line in self.newest() if line["rank"] == rank])[0]

    def committed(self) -> list[checkpoints.Checkpoint]:
        """Its checkpoints, newest first."""
        return checkpoints.list_checkpoints(self.place).committed

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What its record says has happened."""
        content = store.read(store.join(self.place, "events.jsonl")) or b""
        return [event for event in map(json.loads, content.splitlines()) if not kinds or event["event"] in kinds]

    def result(self) -> dict[str, Any]:
        """How it ended, by its record."""
        content: dict[str, Any] = json.loads(store.read(store.join(self.place, "result.json")) or b"{}")
        return content

    def state(self) -> dict[str, str]:
        """What became of it."""
        return state_of(self.place)

    def groups(self) -> list[list[Line]]:
        """The lines of each group of workers, in the order in which they began."""
        groups: dict[str, list[Line]] = {}
        for line in self.lines():
            groups.setdefault(line["group"], []).append(line)
        return list(groups.values())

    def samples_by_epoch(self, steps_per_epoch: int) -> list[list[int]]:
        """Which samples the steps that count were made of, by epoch: of a step that was done again, the last time."""
        last: dict[int, str] = {}
        seen: dict[tuple[int, str], list[int]] = {}
        for line in record.read_lines(self.folder / SAMPLES):
            last[line["step"]] = line["group"]
            seen.setdefault((line["step"], line["group"]), []).extend(line["samples"])
        epochs: list[list[int]] = [[] for _ in range(max(last) // steps_per_epoch + 1)]
        for step, group in last.items():
            epochs[step // steps_per_epoch] += seen[step, group]
        return epochs

    def restarts(self) -> Iterator[tuple[int, float]]:
        """For each time that workers were started again: the steps done twice, and the seconds without a step."""
        for before, after in pairwise(self.groups()):
            last = max(before, key=lambda line: line["step"])
            yield max(0, last["step"] - after[0]["step"]), after[0]["time"] - before[-1]["time"]

    def steps_lost(self) -> list[int]:
        """For each time that workers were started again: the steps that had to be done twice."""
        return [steps for steps, _ in self.restarts()]

    def seconds_lost(self) -> list[float]:
        """For each time that workers were started again: the seconds in which no step began."""
        return [round(seconds, 2) for _, seconds in self.restarts()]
