"""Fashion-MNIST as bytes: decode, the order of samples, and batches of them. No Ray in here.

The data set is 55 MB of uint8 and stays that way in memory, on the GPU if there is one. A batch is one gather and one
normalisation; nothing is done per sample in Python. Which samples a step sees, and how they are mirrored and shifted,
is a function of (seed, epoch, position) alone: not of the number of workers, nor of what happened before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
        """The same samples in the memory of `device`."""
        return Samples(self.images.to(device), self.labels.to(device))

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.images[rows], self.labels[rows])


def load(folder: Path, validation_samples: int = 0) -> tuple[Samples, Samples]:
    """Training and test samples from the four verified files of a folder (see `fetch.find`).

    With `validation_samples` the last so many training samples take the place of the test set, which is not touched.
    The images are mapped, not read: all workers of a node share one copy in the page cache.

    Raises:
        DataError: a file is not the IDX file that its name says.
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
        raise DataError(f"{file} does not begin as an IDX file; remove it, so that it is fetched again.")
    if header_bytes == 8:
        return torch.from_numpy(np.fromfile(file, dtype=np.uint8, offset=8).astype(np.int64))
    # copy-on-write, because torch wants writable memory; nobody writes, so no page is ever copied
    return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c", offset=16).reshape(-1, PIXELS))


def _generator(seed: int, epoch: int, purpose: int) -> torch.Generator:
    # one stream for each use, so that switching one on does not change another
    mixed = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


def sample_order(seed: int, epoch: int, samples: int) -> Tensor:
    """The order in which epoch `epoch` visits `samples` samples: int64 [samples], each index once."""
    return torch.randperm(samples, generator=_generator(seed, epoch, 0))


@dataclass(frozen=True)
class Batch:
    """One worker's share of one step.

    ``images`` float [n, 784], normalised; ``labels`` int64 [n]; ``weight``: what the mean loss over these samples
    counts in the mean over all workers, 1 unless the global batch does not divide equally (the last of an epoch).
    """

    images: Tensor
    labels: Tensor
    weight: float


class Batches:
    """All steps of one epoch as one worker sees them, from global step `start` of the epoch on."""

    def __init__(
        self, samples: Samples, config: Config, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0
    ):
        device = samples.images.device
        self._samples, self._data = samples, config.data
        self._rank, self._world_size, self._start = rank, world_size, start
        self._global_batch_size = config.global_batch_size
        self._order = sample_order(config.seed, epoch, len(samples)).to(device)
        self._flips = flips(config.data, config.seed, epoch, self._order)
        self._shifts = shifts(config.data, config.seed, epoch, len(samples), device)

    def __len__(self) -> int:
        return -(-len(self._order) // self._global_batch_size) - self._start

    def __iter__(self) -> Iterator[Batch]:
        for first in range(self._start * self._global_batch_size, len(self._order), self._global_batch_size):
            last = min(first + self._global_batch_size, len(self._order))
            mine = slice(first + self._rank, last, self._world_size)  # strided: shares differ by one sample at most
            rows = self._order[mine]
            pixels = self._samples.images.index_select(0, rows)
            if self._flips is not None:
                pixels = mirror(pixels, self._flips[mine])
            if self._shifts is not None:
                pixels = shift(pixels, self._shifts[mine], self._data.shift_pixels)
            weight = len(rows) * self._world_size / (last - first)
            yield Batch(normalise(pixels, self._data), self._samples.labels.index_select(0, rows), weight)


def normalise(pixels: Tensor, data: DataConfig) -> Tensor:
    """uint8 [n, 784] to float [n, 784]: to 0..1, less the mean, by the standard deviation, in that order.

    The three operations are those of torchvision's ToTensor and Normalize, so the numbers are the same bit by bit.
    """
    return pixels.to(torch.float32).div_(255).sub_(data.mean).div_(data.std)


def flips(data: DataConfig, seed: int, epoch: int, order: Tensor) -> Tensor | None:
    """Which positions of an epoch are mirrored: bool [samples], or None if none is.

    `alternating` decides once for each image and then mirrors it on every second epoch, so that two epochs show both
    sides of every image (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
    """
    if data.flip == "none":
        return None
    if data.flip == "random":
        return torch.rand(len(order), generator=_generator(seed, epoch, 1)).to(order.device) < 0.5
    first = torch.rand(len(order), generator=_generator(seed, 0, 1)).to(order.device) < 0.5
    return first[order] ^ bool(epoch % 2)


def shifts(data: DataConfig, seed: int, epoch: int, samples: int, device: torch.device) -> Tensor | None:
    """How far each position of an epoch is moved down and right: int64 [samples, 2] in 0..2*shift_pixels, or None."""
    if not data.shift_pixels:
        return None
    steps = 2 * data.shift_pixels + 1
    return torch.randint(steps, (samples, 2), generator=_generator(seed, epoch, 2)).to(device)


def mirror(pixels: Tensor, where: Tensor) -> Tensor:
    """Mirror the images of uint8 [n, 784] for which `where`, bool [n], is true."""
    images = pixels.view(-1, SIDE, SIDE)
    return torch.where(where.view(-1, 1, 1), images.flip(2), images).view(-1, PIXELS)


def shift(pixels: Tensor, by: Tensor, most: int) -> Tensor:
    """Move each image of uint8 [n, 784] by its row of `by`, less `most`; what comes in is 0, the background."""
    padded = torch.nn.functional.pad(pixels.view(-1, SIDE, SIDE), (most, most, most, most))
    side = torch.arange(SIDE, device=pixels.device)
    rows = (2 * most - by[:, :1] + side).unsqueeze(2)
    columns = (2 * most - by[:, 1:] + side).unsqueeze(1)
    images = torch.arange(len(padded), device=pixels.device).view(-1, 1, 1)
    return padded[images, rows, columns].view(-1, PIXELS)


def share(samples: Samples, rank: int, world_size: int) -> tuple[Samples, Tensor]:
    """The part of a test set that one worker scores, and where it stands in the whole (int64)."""
    positions = torch.arange(rank, len(samples), world_size)
    mine = replace(samples, images=samples.images[rank::world_size], labels=samples.labels[rank::world_size])
    return mine, positions
