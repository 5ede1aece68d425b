"""Fashion-MNIST as bytes: reading the files, the order of samples, and batches. Does not import Ray.

The data set is 55 MB of uint8 and stays uint8 in memory, on the GPU if there is one. A batch is one gather and one
normalisation; no Python code runs per sample. Which samples a step sees, and how they are flipped and shifted, depends
only on (seed, epoch, position): neither on the number of workers nor on restarts.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.config import PIXELS, SIDE, Config, DataConfig
from trainer.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Images with their labels: ``images`` uint8 [n, 784], ``labels`` int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Samples:
        """Return the samples in the memory of `device`."""
        return Samples(self.images.to(device), self.labels.to(device))

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.images[rows], self.labels[rows])


def load(folder: Path, validation_samples: int = 0) -> tuple[Samples, Samples]:
    """Return the training and test samples from the four verified files of a folder (see `fetch.find_dataset`).

    With `validation_samples`, the last training samples, that many, replace the test set. The images are memory-mapped:
    all workers of a node share one copy in the page cache.

    Raises:
        DataError: a file is not in the IDX format that its name implies.
    """
    train = Samples(_read_idx(folder / "train-images-idx3-ubyte", 16), _read_idx(folder / "train-labels-idx1-ubyte", 8))
    if validation_samples:
        return train[:-validation_samples], train[-validation_samples:]
    return train, Samples(
        _read_idx(folder / "t10k-images-idx3-ubyte", 16), _read_idx(folder / "t10k-labels-idx1-ubyte", 8)
    )


def _read_idx(file: Path, header_bytes: int) -> Tensor:
    header = np.fromfile(file, dtype=">i4", count=header_bytes // 4)
    if len(header) < 2 or header[0] != (2051 if header_bytes == 16 else 2049):
        raise DataError(f"{file} is not an IDX file: wrong magic number", "delete it, so that it is fetched again")
    if header_bytes == 8:
        return torch.from_numpy(np.fromfile(file, dtype=np.uint8, offset=8).astype(np.int64))
    # copy-on-write, because PyTorch requires writable memory; nothing writes, so no page is ever copied
    return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c", offset=16).reshape(-1, PIXELS))


def _generator(seed: int, epoch: int, purpose: int) -> torch.Generator:
    # one random stream per purpose, so that switching on flips does not change the shifts or the order
    mixed = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


def sample_order(seed: int, epoch: int, samples: int) -> Tensor:
    """Return the order in which epoch `epoch` visits `samples` samples: int64 [samples], each index once."""
    return torch.randperm(samples, generator=_generator(seed, epoch, 0))


@dataclass(frozen=True)
class Batch:
    """One worker's share of one step.

    ``epoch`` counts from 1, ``step`` from 0 over the whole run. ``rows`` int64 [n]: which samples of the training set;
    ``images`` float [n, 784], normalised; ``labels`` int64 [n]. ``weight`` is the factor of this worker's mean loss in
    the mean over all workers: 1 unless the global batch is not divisible (the last one of an epoch).
    """

    epoch: int
    step: int
    rows: Tensor
    images: Tensor
    labels: Tensor
    weight: float

    @property
    def done(self) -> int:
        """Steps of the run that are done after this one."""
        return self.step + 1


@dataclass(frozen=True)
class EpochEnd:
    """Follows the last batch of an epoch; ``done`` steps of the run are done then."""

    epoch: int
    done: int


def stream(
    samples: Samples,
    config: Config,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    skipped: Container[int] = (),
) -> Iterator[Batch | EpochEnd]:
    """Yield one worker's batches of a whole run, and an `EpochEnd` after those of each epoch.

    The stream begins with step `start` and leaves out the steps in `skipped`. Where `start` is the end of an epoch, it
    begins with that `EpochEnd`: a run that stopped there may not have scored the epoch.
    """
    steps_per_epoch = -(-len(samples) // config.global_batch_size)
    first_epoch = max(1, -(-start // steps_per_epoch))
    for epoch in range(first_epoch, config.epochs + 1):
        shuffled = _ShuffledEpoch(samples, config, epoch)
        first_step = (epoch - 1) * steps_per_epoch
        for step in range(max(start, first_step), first_step + steps_per_epoch):
            if step not in skipped:
                yield shuffled.batch(step, step - first_step, rank, world_size)
        yield EpochEnd(epoch, first_step + steps_per_epoch)


class _ShuffledEpoch:
    """The training set in the order of one epoch, with its random flips and shifts."""

    def __init__(self, samples: Samples, config: Config, epoch: int):
        device = samples.images.device
        self._samples = samples
        self._data = config.data
        self._epoch = epoch
        self._global_batch_size = config.global_batch_size
        self._order = sample_order(config.seed, epoch, len(samples)).to(device)
        self._flips = flips(config.data, config.seed, epoch, self._order)
        self._shifts = shifts(config.data, config.seed, epoch, len(samples), device)

    def batch(self, step: int, step_in_epoch: int, rank: int, world_size: int) -> Batch:
        """Return the share of one worker in a global batch, gathered, augmented and normalised."""
        first = step_in_epoch * self._global_batch_size
        last = min(first + self._global_batch_size, len(self._order))
        share = slice(first + rank, last, world_size)  # strided: shares differ by one sample at most
        rows = self._order[share]
        pixels = self._samples.images.index_select(0, rows)
        if self._flips is not None:
            pixels = mirror(pixels, self._flips[share])
        if self._shifts is not None:
            pixels = shift(pixels, self._shifts[share], self._data.shift_pixels)
        return Batch(
            epoch=self._epoch,
            step=step,
            rows=rows,
            images=normalise(pixels, self._data),
            labels=self._samples.labels.index_select(0, rows),
            weight=len(rows) * world_size / (last - first),
        )


def normalise(pixels: Tensor, data: DataConfig) -> Tensor:
    """Return uint8 [n, 784] as float [n, 784]: scaled to 0..1, minus the mean, divided by the standard deviation.

    These are the operations of torchvision's ToTensor and Normalize in the same order, so the results are identical
    bit for bit.
    """
    return pixels.to(torch.float32).div_(255).sub_(data.mean).div_(data.std)


def flips(data: DataConfig, seed: int, epoch: int, order: Tensor) -> Tensor | None:
    """Return which positions of an epoch are flipped left to right: bool [samples], or None for no flips.

    `alternating` draws once per image and then flips it in every second epoch, so that two epochs show both sides of
    every image (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
    """
    if data.flip == "none":
        return None
    if data.flip == "random":
        return torch.rand(len(order), generator=_generator(seed, epoch, 1)).to(order.device) < 0.5
    first = torch.rand(len(order), generator=_generator(seed, 0, 1)).to(order.device) < 0.5
    return first[order] ^ bool(epoch % 2)


def shifts(data: DataConfig, seed: int, epoch: int, samples: int, device: torch.device) -> Tensor | None:
    """Return how far each position of an epoch moves down and right: int64 [samples, 2], 0..2*shift_pixels, or None."""
    if not data.shift_pixels:
        return None
    steps = 2 * data.shift_pixels + 1
    return torch.randint(steps, (samples, 2), generator=_generator(seed, epoch, 2)).to(device)


def mirror(pixels: Tensor, where: Tensor) -> Tensor:
    """Flip the images of uint8 [n, 784] left to right where `where`, bool [n], is true."""
    images = pixels.view(-1, SIDE, SIDE)
    return torch.where(where.view(-1, 1, 1), images.flip(2), images).view(-1, PIXELS)


def shift(pixels: Tensor, offsets: Tensor, limit: int) -> Tensor:
    """Move each image of uint8 [n, 784] down and right by its row of `offsets`, int64 [n, 2], minus `limit` pixels.

    Pixels that move in from outside are 0, the background.
    """
    padded = torch.nn.functional.pad(pixels.view(-1, SIDE, SIDE), (limit, limit, limit, limit))
    side = torch.arange(SIDE, device=pixels.device)
    rows = (2 * limit - offsets[:, :1] + side).unsqueeze(2)
    columns = (2 * limit - offsets[:, 1:] + side).unsqueeze(1)
    images = torch.arange(len(padded), device=pixels.device).view(-1, 1, 1)
    return padded[images, rows, columns].view(-1, PIXELS)


def share(samples: Samples, rank: int, world_size: int) -> tuple[Samples, Tensor]:
    """Return the part of a test set that one worker scores, and the positions of its samples in the whole, int64."""
    positions = torch.arange(rank, len(samples), world_size)
    return Samples(samples.images[rank::world_size], samples.labels[rank::world_size]), positions
