"""Fashion-MNIST in plain PyTorch, as its tutorials teach it: the other side of our comparisons.

The network, sizes and learning rate are those of Ray's own Fashion-MNIST example. Prints one JSON line an epoch and one
at the end. ``seed_ray.py`` runs the same under Ray Train.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import psutil
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
DROPOUT = 0.25
WARM_UP_S = 1.0  # left out of samples_per_second


class Network(nn.Module):
    """784-512-512-10, with a ReLU after every layer, the last one too."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.layers = nn.Sequential(
            nn.Linear(28 * 28, 512),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(512, 10),
            nn.ReLU(),
        )

    def forward(self, images):
        """Logits of images."""
        return self.layers(self.flatten(images))


class Meter:
    """Samples and seconds of training alone, once the first second of it is over."""

    def __init__(self):
        self.samples, self.seconds, self._training = 0, 0.0, 0.0

    def start(self):
        """Training goes on from here: the time since the last step does not count."""
        self._last = time.perf_counter()

    def add(self, samples):
        """A step is done."""
        now = time.perf_counter()
        if self._training >= WARM_UP_S:
            self.samples += samples
            self.seconds += now - self._last
        self._training += now - self._last
        self._last = now

    def rate(self):
        """Samples per second, or None if training took no longer than the warm-up."""
        return self.samples / self.seconds if self.seconds else None


def datasets(folder):
    """Torchvision's data sets over a folder with the four decompressed files."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    with tempfile.TemporaryDirectory() as root:  # they read all of it at once
        raw = Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in Path(folder).iterdir():
            (raw / file.name).symlink_to(file.absolute())
        return tuple(
            torchvision.datasets.FashionMNIST(root, train=train, download=False, transform=transform)
            for train in (True, False)
        )


def train_epoch(model, loader, loss_function, optimizer, meter, max_steps=None, on_first_step=None):
    """One pass over the training set, or its first `max_steps` batches; returns the steps made."""
    model.train()
    step = 0
    meter.start()
    for step, (images, labels) in enumerate(loader, start=1):
        if step == 1 and on_first_step:
            on_first_step()
        loss = loss_function(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meter.add(len(labels))
        if step == max_steps:
            break
    return step


@torch.no_grad()
def evaluate(model, loader, loss_function):
    """Sum of the batches' losses, correct predictions, batches and samples."""
    model.eval()
    loss_sum, correct, batches, samples = 0.0, 0, 0, 0
    for images, labels in loader:
        logits = model(images)
        loss_sum += loss_function(logits, labels).item()
        correct += (logits.argmax(1) == labels).sum().item()
        batches += 1
        samples += len(labels)
    return loss_sum, correct, batches, samples


def versions():
    """What this ran with."""
    return {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}


def parse(description):
    """The options that both scripts have; the caller adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder with the four decompressed files; else trainer finds them")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, help="default: PyTorch's (under Ray: one CPU a worker)")
    parser.add_argument("--max-steps", type=int, help="stop each epoch after so many steps, and do not test")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def find_data(folder):
    """The folder given, else the one that trainer finds or fetches."""
    if folder is not None:
        return folder
    from trainer.training import fetch

    return fetch.find_dataset(None, log=lambda _: None)


def main():
    """Train and print."""
    marks = {"imported": time.time()}
    options = parse("Fashion-MNIST in plain PyTorch").parse_args()
    process_start = psutil.Process().create_time()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    train_set, test_set = datasets(find_data(options.data))
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE)
    model = Network()
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    meter, epochs = Meter(), []
    for epoch in range(1, options.epochs + 1):
        steps = train_epoch(
            model,
            train_loader,
            loss_function,
            optimizer,
            meter,
            options.max_steps,
            on_first_step=lambda: marks.setdefault("first_step", time.time()),
        )
        line = {"epoch": epoch, "steps": steps}
        if not options.max_steps:
            loss_sum, correct, batches, samples = evaluate(model, test_loader, loss_function)
            line |= {"test_loss": loss_sum / batches, "test_accuracy": correct / samples}
        line |= {"time": time.time(), "seconds": time.time() - process_start}
        print(json.dumps(line), flush=True)
        epochs.append(line)
    marks["last_report"] = time.time()
    final = {"samples_per_second": meter.rate(), "threads": torch.get_num_threads(), "epochs": epochs, "marks": marks}
    print(json.dumps(final | {"versions": versions()}), flush=True)


if __name__ == "__main__":
    main()
