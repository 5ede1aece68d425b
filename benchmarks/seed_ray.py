"""The training of ``seed_plain.py`` under Ray Train, as Ray's documentation teaches it.

A plain ``ray.init()``, ``prepare_model``, ``prepare_data_loader`` and a report each epoch; the workers share a batch
of 32. Prints one JSON line an epoch and one at the end, once Ray hands back what rank 0 returned.
"""

import json
import tempfile
import time

import psutil
import ray
import ray.train
import ray.train.torch
import seed_plain as seed
import torch
import torch.distributed
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn
from torch.utils.data import DataLoader


def train_loop(config):
    """Run on each worker."""
    marks = {"loop_entered": time.time()}
    torch.manual_seed(config["seed"])
    workers = ray.train.get_context().get_world_size()

    train_set, test_set = seed.datasets(config["data"])
    train_loader = DataLoader(train_set, batch_size=seed.BATCH_SIZE // workers, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=seed.BATCH_SIZE // workers)
    train_loader = ray.train.torch.prepare_data_loader(train_loader)
    test_loader = ray.train.torch.prepare_data_loader(test_loader)
    model = ray.train.torch.prepare_model(seed.Network())
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=seed.LEARNING_RATE, momentum=seed.MOMENTUM)

    meter, epochs = seed.Meter(), []
    for epoch in range(1, config["epochs"] + 1):
        if workers > 1:
            train_loader.sampler.set_epoch(epoch)
        steps = seed.train_epoch(
            model,
            train_loader,
            loss_function,
            optimizer,
            meter,
            config["max_steps"],
            on_first_step=lambda: marks.setdefault("first_step", time.time()),
        )
        line = {"epoch": epoch, "steps": steps}
        if not config["max_steps"]:
            line |= test(model, test_loader, loss_function)
        line["time"] = time.time()
        ray.train.report(metrics=line)
        epochs.append(line)
        if line.get("test_accuracy", 0.0) >= config["stop_at"]:
            break
    marks["last_report"] = time.time()
    rate = meter.rate()
    return {
        "samples_per_second": rate and rate * workers,
        "threads": torch.get_num_threads(),
        "epochs": epochs,
        "marks": marks,
    }


def test(model, loader, loss_function):
    """Loss and accuracy over the test set, of which each worker scores a part."""
    sums = torch.tensor(seed.evaluate(model, loader, loss_function), dtype=torch.float64)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    loss_sum, correct, batches, samples = sums.tolist()
    return {"test_loss": loss_sum / batches, "test_accuracy": correct / samples}


def main():
    """Train and print."""
    marks = {"imported": time.time()}
    parser = seed.parse("Fashion-MNIST under Ray Train")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stop-at", type=float, default=2.0, help="end once the test accuracy is so high")
    options = parser.parse_args()
    process_start = psutil.Process().create_time()

    ray.init()
    marks["ray_started"] = time.time()
    with tempfile.TemporaryDirectory() as storage:
        result = TorchTrainer(
            train_loop,
            train_loop_config={
                "data": str(seed.find_data(options.data)),
                **{name: getattr(options, name) for name in ("epochs", "max_steps", "seed", "stop_at")},
            },
            scaling_config=ScalingConfig(
                num_workers=options.workers,
                resources_per_worker={"CPU": options.threads} if options.threads else None,
            ),
            run_config=RunConfig(storage_path=storage),
        ).fit()
    marks["fit_returned"] = time.time()

    final = result.return_value
    for line in final["epochs"]:
        line["seconds"] = line["time"] - process_start
        print(json.dumps(line))
    final["marks"] = marks | final["marks"]
    final["versions"] = seed.versions() | {"ray": ray.__version__}
    print(json.dumps(final), flush=True)


if __name__ == "__main__":
    main()
