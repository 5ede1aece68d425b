"""Try settings of a recipe on a validation split, several seeds each: how the recipes were chosen.

Each trial runs our loop in this process through Ray Train's local mode, so no Ray process is started:

    python benchmarks/sweep.py fast --seeds 2 --try "epochs=3" --try "epochs=3 model.hidden=[256,256]"
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from typing import Any

VALIDATION_SAMPLES = 10_000


def main() -> None:
    """Print one row of docs/experiments.md for each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--try", dest="trials", action="append", default=[], help="settings, as key=value, by spaces")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--test", action="store_true", help="the last word only: train on all, score on the test set")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer sets it
    import torch

    torch.set_num_threads(arguments.threads)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    samples = 0 if arguments.test else VALIDATION_SAMPLES
    print("| settings | accuracy % mean (min–max) | training s | samples/s |\n|---|---|---|---|", flush=True)
    for trial in arguments.trials or [""]:
        settings = [*trial.split(), f"data.validation_samples={samples}"]
        runs = [train(arguments.recipe, [*settings, f"seed={seed}"]) for seed in seeds]
        accuracies = [100 * run["accuracy"] for run in runs]
        spread = f"{statistics.mean(accuracies):.2f} ({min(accuracies):.2f}–{max(accuracies):.2f})"
        print(
            f"| {trial or 'as it is'} | {spread} "
            f"| {statistics.median(run['seconds'] for run in runs):.1f} "
            f"| {statistics.median(run['rate'] for run in runs):,.0f} |",
            flush=True,
        )


def train(recipe: str, overrides: list[str]) -> dict[str, float]:
    """Accuracy (0..1), seconds of training and samples/s of one run."""
    import ray.train
    from ray.train import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from trainer import resolve
    from trainer.training import loop

    reports: list[dict[str, Any]] = []
    ray.train.report = reports.append
    with tempfile.TemporaryDirectory() as folder:
        DataParallelTrainer(
            loop.train,
            train_loop_config={
                "config": resolve.load(recipe, None, overrides).model_dump(),
                "data_folder": None,
                "run": folder,
                "fence": 0,
                "attempt": 1,
                "preemptible": False,
            },
            scaling_config=ScalingConfig(num_workers=0),
        ).fit()
    points = [report for report in reports if "samples" in report]
    seconds = sum(point["seconds"] for point in points)
    return {
        "accuracy": points[-1]["test_accuracy"],
        "seconds": seconds,
        "rate": sum(point["samples"] for point in points) / seconds,
    }


if __name__ == "__main__":
    main()
