"""What takes part in a comparison: each side is one command, run to its end, and the numbers it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faults
import machine

from trainer.errors import ExitCode
from trainer.training import device

HERE = Path(__file__).parent
TIMEOUT_S = 1800
EVERY_S = 1.0  # between two checkpoints of a run whose workers are killed
CORES = device.cpu_count()


class SideError(Exception):
    """One side of a comparison did not do what it should; says why in a sentence."""


@dataclass(frozen=True)
class Bench:
    """What every side is given: the data set, the round (also the random seed) and whether to keep it tiny."""

    data: Path
    round: int = 1
    quick: bool = False

    def less(self, full: int, quick: int) -> int:
        """`full`, or `quick` if a quick run is asked for."""
        return quick if self.quick else full


@dataclass
class Numbers:
    """What one run of one side gave: numbers by name, and sentences about them."""

    values: dict[str, float]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """A command that ended well."""

    output: str
    began: float
    ended: float
    seen: dict[str, float]
    machine: dict[str, float]

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines among what it printed."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


# ── The sides ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_rate(bench: Bench, threads: int, steps: int = 1875) -> Numbers:
    """Training samples per second of plain PyTorch."""
    ran = _run_script(bench, "seed_plain.py", threads, "--epochs", 1, "--max-steps", bench.less(steps, 300))
    return _of(ran, samples_per_second=_rate(ran.lines()[-1]["samples_per_second"]))


def seed_ray_rate(bench: Bench, threads: int, steps: int = 1875) -> Numbers:
    """Training samples per second of plain PyTorch code under Ray Train."""
    ran = _run_script(bench, "seed_ray.py", threads, "--epochs", 1, "--max-steps", bench.less(steps, 300))
    return _of(ran, samples_per_second=_rate(ran.lines()[-1]["samples_per_second"]))


def local_rate(bench: Bench, recipe: str, epochs: int, threads: int) -> Numbers:
    """Training samples per second of our loop without Ray."""
    overrides = _overrides({"epochs": bench.less(epochs, 1), "report_every_s": _report_every_s(bench)})
    ran = _run_script(bench, "local_loop.py", threads, "--recipe", recipe, *overrides)
    return _of(ran, samples_per_second=_warm_rate(ran.lines()[-1]["points"]))


def ours_rate(
    bench: Bench, recipe: str, epochs: int, workers: int = 1, cpus: int = 1, settings: dict[str, Any] | None = None
) -> Numbers:
    """Training samples per second of ours."""
    settings = {"epochs": bench.less(epochs, 1), "report_every_s": _report_every_s(bench), **(settings or {})}
    ran, record = ours(bench, recipe, settings, workers, cpus)
    return _of(ran, samples_per_second=_warm_rate(record["points"]))


def ours_time_to(bench: Bench, recipe: str, accuracy: float, settings: dict[str, Any] | None = None) -> Numbers:
    """Seconds from the start of our process to the first evaluation with `accuracy`, as users would run it."""
    settings = {**(settings or {}), **({"epochs": 1} if bench.quick else {}), "seed": bench.round}
    ran, record = ours(bench, recipe, settings)
    tested = [point for point in record["points"] if "test_accuracy" in point]
    return _time_to(ran, [(point["time"], point["test_accuracy"]) for point in tested], accuracy)


def seed_ray_time_to(bench: Bench, accuracy: float, threads: int) -> Numbers:
    """Seconds from the start of the seed under Ray to the first evaluation with `accuracy`, in ten epochs at most."""
    options = ("--epochs", bench.less(10, 1), "--stop-at", accuracy, "--seed", bench.round)
    ran = _run_script(bench, "seed_ray.py", threads, *options)
    tested = [(epoch["time"], epoch["test_accuracy"]) for epoch in ran.lines()[-1]["epochs"]]
    return _time_to(ran, tested, accuracy)


def plain_wall(bench: Bench, threads: int) -> Numbers:
    """Seconds that ten epochs of plain PyTorch take, from start to end of the process."""
    size = ("--epochs", 1, "--max-steps", 300) if bench.quick else ("--epochs", 10)
    ran = _run_script(bench, "seed_plain.py", threads, *size, "--seed", bench.round)
    return _of(ran, seconds=ran.ended - ran.began, accuracy=ran.lines()[-1]["epochs"][-1].get("test_accuracy", 0.0))


def ours_startup(bench: Bench) -> Numbers:
    """How long until our first step, and how long after the last report; by parts."""
    titles = ("gcs_server", "raylet/raylet", "ray::TrainController", "ray::RayTrainWorker")
    ran, record = ours(bench, "fast", {"epochs": 1}, titles=titles)
    started, finished = record["training_started"], record["training_finished"]
    marks = {f"{title.split('/')[-1]} seen": at for title, at in ran.seen.items()}
    return _startup(ran, {**marks, "first_step": started["started_at"], "last_report": finished["finished_at"]})


def ours_saving(bench: Bench, recipe: str, epochs: int, in_bucket: bool = False) -> Numbers:
    """What a checkpoint every 5 s costs: the speed of all of a run over that of its parts in which none is saved.

    Both are of one run, so that a machine that is faster or slower for a minute is so for both.
    """
    settings = {"epochs": bench.less(epochs, 1), "report_every_s": 0.5, "checkpoint.every_s": 5.0}
    with faults.s3_server() if in_bucket else nullcontext() as server:
        ran, record = ours(bench, recipe, settings, workers=1, cpus=1, bucket=server)
    points = record["points"][6:]  # the first seconds hold what happens once
    saving = [point["saving_seconds"] > 0 for point in points]
    # a save goes on behind the training for a while: the report after it is one of those with a save, too
    without = [p for p, now, before in zip(points, saving, [False, *saving], strict=False) if not now and not before]
    of_all, of_these = _mean_rate(points), _mean_rate(without)
    stalls = [1000 * point["saving_seconds"] for point in points]
    return _of(
        ran,
        samples_per_second=of_all,
        speed_kept=of_all / of_these,
        saves=float(sum(saving)),
        longest_stall_ms=max(stalls),
    )


def ours_recovery(bench: Bench, workers: int, kills: int) -> Numbers:
    """Seconds from a SIGKILL of a worker to the next training step, and their parts: medians over a run's kills."""
    settings = {
        "epochs": 10_000,
        "checkpoint.every_s": EVERY_S,
        "report_every_s": 0.3,
    }  # it is stopped after the last kill
    killer = faults.Killer(bench.less(kills, 1))
    ran, record = ours(bench, "fast", settings, workers, cpus=1, meanwhile=killer)
    return _of(ran, **killer.numbers(record["events"], record["points"]))


def script_startup(bench: Bench, script: str, threads: int) -> Numbers:
    """The same of a script of the other side, which runs 100 steps."""
    ran = _run_script(bench, script, threads, "--epochs", 1, "--max-steps", 100)
    return _startup(ran, ran.lines()[-1]["marks"])


def import_times(_: Bench) -> Numbers:
    """Wall seconds of what a process has to import, each in a process of its own."""
    modules = ("trainer.launch", "ray", "ray.train", "torch", "torchvision", "trainer.loop")
    values, last = {}, None
    for module in modules:
        clock = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        last = _execute([sys.executable, "-c", clock], {})
        values[f"import {module}"] = float(last.output)
    return Numbers(values, machine=last.machine)


# ── How they are started ──────────────────────────────────────────────────────────────────────────────────────────────


def ours(
    bench: Bench,
    recipe: str,
    settings: dict[str, Any],
    workers: int | None = None,
    cpus: int | None = None,
    titles: tuple[str, ...] = (),
    bucket: dict[str, str] | None = None,
    meanwhile: faults.Killer | None = None,
) -> tuple[Ran, dict[str, Any]]:
    """Run our trainer by its command line and read what it printed: the only place that knows either.

    With `bucket`, the environment of an S3 server, the run is kept there; `meanwhile` disturbs it.

    Returns how it ran, ``points``, ``events``, and the last event of each kind by its name.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as storage:
        command = [sys.executable, "-m", "trainer", "train", "--recipe", recipe, *_overrides(settings)]
        command += [
            "--storage",
            f"s3://{faults.BUCKET}" if bucket else storage,
            "--name",
            "bench",
            "--log-format",
            "json",
        ]
        command += ["--workers", str(workers)] if workers else []
        command += ["--cpus-per-worker", str(cpus)] if cpus else []
        with _disturbed(Path(storage) / "bench", meanwhile):
            variables = {"FASHION_MNIST_DIR": str(bench.data), **(bucket or {})}
            ran = _execute(command, variables, titles, ExitCode.OK if meanwhile is None else ExitCode.INTERRUPTED)
        points = [line for line in ran.lines() if line["event"] == "metrics"]
        events = [line for line in ran.lines() if line["event"] != "metrics"]
        return ran, {"points": points, "events": events, **{event["event"]: event for event in events}}


@contextmanager
def _disturbed(folder: Path, killer: faults.Killer | None) -> Iterator[None]:
    if killer is None:
        yield
        return
    thread = threading.Thread(target=killer.run, args=(folder,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        killer.stop()
        thread.join()


def _run_script(bench: Bench, script: str, threads: int, *options: object) -> Ran:
    command = [sys.executable, str(HERE / script), "--data", bench.data, "--threads", threads, *options]
    # Ray sets OMP_NUM_THREADS in its workers, to their CPUs; without Ray it is for us to do
    variables = {} if script == "seed_ray.py" else {"OMP_NUM_THREADS": str(threads)}
    return _execute([str(word) for word in command], variables)


def _execute(command: list[str], variables: dict[str, str], titles: tuple[str, ...] = (), exit_code: int = 0) -> Ran:
    """Run a command to its end, watch the machine meanwhile, and leave nothing of it running.

    Raises:
        SideError: it ended with another exit code, or took too long.
    """
    name = " ".join(Path(word).name for word in command[1:4])
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch, machine.Watch(titles) as watch:
        file = Path(scratch) / "output"  # not a pipe: a daemon left behind would keep it open
        with file.open("w") as out:
            began = time.time()
            process = subprocess.Popen(
                command, env=_environment(scratch) | variables, stdout=out, stderr=out, start_new_session=True
            )
        try:
            process.wait(TIMEOUT_S)
            ended = time.time()
        except subprocess.TimeoutExpired:
            raise SideError(f"{name} did not end within {TIMEOUT_S} s.") from None
        finally:
            machine.end_descendants()
        output = file.read_text(errors="replace")
    if process.returncode != exit_code:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        raise SideError(f"{name} ended with exit code {process.returncode}: {lines[-1] if lines else 'no message'}")
    used = {"others": watch.others, "ours": watch.ours, "load": watch.load, "seconds": watch.seconds}
    return Ran(output, began, ended, watch.seen, used)


def _environment(scratch: str) -> dict[str, str]:
    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"RAY_TMPDIR": scratch, "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


# ── Numbers from what they left ───────────────────────────────────────────────────────────────────────────────────────


def _of(ran: Ran, **values: float) -> Numbers:
    return Numbers(values, machine=ran.machine)


def _overrides(settings: dict[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        yield from ("--set", f"{key}={json.dumps(value) if not isinstance(value, str) else value}")


def _report_every_s(bench: Bench) -> float:
    return 0.3 if bench.quick else 1.0


def _rate(samples_per_second: float | None) -> float:
    if samples_per_second is None:
        raise SideError("Training was over before it was warm; give it more steps.")
    return samples_per_second


def _warm_rate(points: list[dict[str, Any]]) -> float:
    return _mean_rate(points[1:])  # the first one holds what happens once: allocations, lazy initialisation


def _mean_rate(points: list[dict[str, Any]]) -> float:
    return _rate(sum(p["samples"] for p in points) / sum(p["seconds"] for p in points) if points else None)


def _time_to(ran: Ran, tested: list[tuple[float, float]], accuracy: float) -> Numbers:
    for at, reached in tested:
        if reached >= accuracy:
            return _of(ran, seconds=at - ran.began, accuracy=reached)
    at, reached = tested[-1]
    note = f"{accuracy:.0%} was not reached in {len(tested)} epochs ({reached:.2%}): the time is that of their end."
    return Numbers({"seconds": at - ran.began, "accuracy": reached}, [note], ran.machine)


def _startup(ran: Ran, marks: dict[str, float]) -> Numbers:
    """All marks as seconds from the start; ``end_seconds``: from the last report to the end of the process."""
    values = {mark: at - ran.began for mark, at in sorted(marks.items(), key=lambda each: each[1])}
    return _of(ran, **values, exit=ran.ended - ran.began, end_seconds=ran.ended - marks["last_report"])
