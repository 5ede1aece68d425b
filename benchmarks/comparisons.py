"""Every comparison: its sides, its goals, how often it is repeated. The one table to read or to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import sides
from sides import CORES, Bench, Numbers

Side = Callable[[Bench], Numbers]


@dataclass(frozen=True)
class Goal:
    """A number of side `over` divided by that of side `under` (if there is one) is `at_least` or `at_most` a value."""

    text: str
    over: str
    under: str | None = None
    number: str = "samples_per_second"
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Sides that take turns, and what is hoped of them."""

    title: str
    sides: dict[str, Side]
    goals: tuple[Goal, ...]


FP32 = {"precision": "fp32"}
SEED = partial(sides.ours_rate, recipe="seed", epochs=2)
PLAIN = partial(sides.plain_rate, threads=1)


def _workers() -> tuple[dict[str, Side], tuple[Goal, ...]]:
    """One worker with two CPUs against two with one each, at three global batch sizes."""
    runs: dict[str, Side] = {}
    goals = []
    for batch, epochs, goal in ((32, 1, 1.0), (256, 3, 0.95), (1024, 4, 0.95)):
        run = partial(sides.ours_rate, recipe="seed", epochs=epochs, settings={"global_batch_size": batch})
        one, two = f"1 worker, batch {batch}", f"2 workers, batch {batch}"
        runs |= {one: partial(run, workers=1, cpus=2), two: partial(run, workers=2, cpus=1)}
        goals.append(Goal(f"batch {batch}: one worker with 2 CPUs / two workers with 1 each", one, two, at_least=goal))
    return runs, tuple(goals)


WORKER_SIDES, WORKER_GOALS = _workers()

SAVING = ("MLP", "CNN", "MLP, S3")

COMPARISONS = {
    "loop-seed-plain": Comparison(
        "The same maths on one core: ours under Ray against a plain PyTorch script",
        {"ours": SEED, "seed_plain": PLAIN},
        (Goal("training samples/s, ours / seed_plain", "ours", "seed_plain", at_least=1.8),),
    ),
    "loop-seed-ray": Comparison(
        "The same maths on one core: ours against the plain code under Ray Train",
        {"ours": SEED, "seed_ray": partial(sides.seed_ray_rate, threads=1)},
        (Goal("training samples/s, ours / seed_ray", "ours", "seed_ray", at_least=1.9),),
    ),
    "loop-best": Comparison(
        "Our fastest fp32 recipe on one core against a plain PyTorch script",
        {"ours": partial(sides.ours_rate, recipe="fast", epochs=4, settings=FP32), "seed_plain": PLAIN},
        (Goal("training samples/s, ours / seed_plain", "ours", "seed_plain", at_least=4.8),),
    ),
    "ray-overhead": Comparison(
        "Our loop under Ray against the same loop without Ray, one thread",
        {
            "seed under Ray": partial(sides.ours_rate, recipe="seed", epochs=3),
            "seed without": partial(sides.local_rate, recipe="seed", epochs=3, threads=1),
            "fast under Ray": partial(sides.ours_rate, recipe="fast", epochs=6),
            "fast without": partial(sides.local_rate, recipe="fast", epochs=6, threads=1),
        },
        (
            Goal("recipe seed: samples/s, with / without Ray", "seed under Ray", "seed without", at_least=0.98),
            Goal("recipe fast: samples/s, with / without Ray", "fast under Ray", "fast without", at_least=0.98),
        ),
    ),
    "time-to-88": Comparison(
        "From the start of the process to 88 % test accuracy, both under Ray",
        {
            "seed_ray": partial(
                sides.seed_ray_time_to, accuracy=0.88, threads=1
            ),  # as fast as with more, and Ray's default,
            "ours": partial(sides.ours_time_to, recipe="fast", accuracy=0.88),
        },
        (Goal("seconds, seed_ray / ours", "seed_ray", "ours", "seconds", at_least=5.0),),
    ),
    "startup": Comparison(
        "From the start of the process to the first step, and from the last report to its end",
        {
            "ours": sides.ours_startup,
            "seed_ray": partial(sides.script_startup, script="seed_ray.py", threads=1),
            "seed_plain": partial(sides.script_startup, script="seed_plain.py", threads=1),
            "imports": sides.import_times,
        },
        (
            Goal("seconds to the first step, seed_ray / ours", "seed_ray", "ours", "first_step", at_least=1.0),
            Goal("seconds to the first step, ours / seed_plain", "ours", "seed_plain", "first_step", at_most=4.0),
            Goal("seconds from the last report to the end, ours", "ours", None, "end_seconds", at_most=3.0),
        ),
    ),
    "accurate-92": Comparison(
        "92 % by recipe accurate in less time than ten epochs of plain PyTorch",
        {
            "seed_plain": partial(sides.plain_wall, threads=CORES),
            "seed_plain, 1 thread": partial(sides.plain_wall, threads=1),  # at its batch size often the faster
            "ours": partial(sides.ours_time_to, recipe="accurate", accuracy=0.92),
        },
        (
            Goal("seconds, ten epochs of seed_plain / ours", "seed_plain", "ours", "seconds", at_least=1.0),
            Goal("the same, seed_plain on 1 thread", "seed_plain, 1 thread", "ours", "seconds", at_least=1.0),
        ),
    ),
    "checkpoint-cost": Comparison(
        "A checkpoint every 5 s, one thread: the speed of a run over that of its parts in which nothing is saved",
        {
            "MLP": partial(sides.ours_saving, recipe="seed", epochs=6),
            "CNN": partial(sides.ours_saving, recipe="accurate", epochs=1),
            "MLP, S3": partial(sides.ours_saving, recipe="seed", epochs=6, in_bucket=True),
        },
        (
            *(Goal(f"{what}: speed kept", what, None, "speed_kept", at_least=0.99) for what in SAVING),
            *(Goal(f"{what}: longest stall, ms", what, None, "longest_stall_ms", at_most=50) for what in SAVING),
        ),
    ),
    "recovery": Comparison(
        "From a SIGKILL of a worker to the next training step, with a checkpoint every second",
        {
            "1 worker": partial(sides.ours_recovery, workers=1, kills=5),
            "2 workers": partial(sides.ours_recovery, workers=2, kills=5),
        },
        (
            Goal("seconds, 1 worker", "1 worker", None, "seconds", at_most=10.0),
            Goal("seconds, 2 workers", "2 workers", None, "seconds", at_most=10.0),
            Goal("seconds of training done again, 1 worker", "1 worker", None, "done again", at_most=sides.EVERY_S),
            Goal("seconds of training done again, 2 workers", "2 workers", None, "done again", at_most=sides.EVERY_S),
        ),
    ),
    "workers": Comparison(
        "One worker with two CPUs against two workers with one each (our loop, the seed's network)",
        WORKER_SIDES,
        WORKER_GOALS,
    ),
}
