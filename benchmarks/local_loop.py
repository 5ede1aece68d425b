"""Our training loop without Ray: one process, no Ray cluster, through Ray Train's local mode. Prints one JSON line.

The loop is the same function; only what it calls to report is replaced by a list.
"""

import argparse
import json
import tempfile
from pathlib import Path

import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from trainer import resolve
from trainer.training import loop


def main():
    """Train and print what was reported."""
    parser = argparse.ArgumentParser(description="Our training loop without Ray")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", dest="overrides", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    reports = []
    ray.train.report = lambda numbers, **_: reports.append(numbers)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "config": resolve.load(options.recipe, None, options.overrides).model_dump(),
            "data_folder": options.data,
            "run": folder,
            "fence": 0,
            "attempt": 1,
            "preemptible": False,
        }
        DataParallelTrainer(loop.train, train_loop_config=settings, scaling_config=ScalingConfig(num_workers=0)).fit()
    points = [{key: each[key] for key in ("samples", "seconds")} for each in reports if "samples" in each]
    ended = reports[-1]
    print(json.dumps({"points": points, "threads": torch.get_num_threads(), "test_accuracy": ended["test_accuracy"]}))


if __name__ == "__main__":
    main()
