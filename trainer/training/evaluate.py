"""Scoring weights: test loss, accuracy and confusion matrix, within a run or afterwards as stateless Ray tasks."""

from __future__ import annotations

import base64
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import CLASSES, Config, DataConfig
from trainer.errors import StorageError
from trainer.storage import store
from trainer.training import data
from trainer.training.data import Samples

if TYPE_CHECKING:  # scoring afterwards needs no Ray Train
    from trainer.training.worker import Worker

BATCH_SIZE = 1000
MISTAKES = 25


@dataclass(frozen=True)
class Scores:
    """Sums over a set of samples, so that parts add up exactly.

    ``loss_sum`` float64 []: cross entropy, summed; ``confusion`` int64 [10, 10]: samples by label and prediction.
    """

    loss_sum: Tensor
    confusion: Tensor

    @property
    def samples(self) -> int:
        """The number of samples scored."""
        return int(self.confusion.sum())

    @property
    def loss(self) -> float:
        """The mean cross entropy."""
        return float(self.loss_sum) / self.samples

    @property
    def accuracy(self) -> float:
        """The share of samples classified correctly, 0..1."""
        return float(self.confusion.trace()) / self.samples

    @property
    def class_accuracy(self) -> dict[str, float]:
        """The share of each class that was classified correctly, 0..1; classes without samples are left out."""
        rows = self.confusion.sum(1).tolist()
        correct = self.confusion.diagonal().tolist()
        return {name: correct[i] / rows[i] for i, name in enumerate(CLASSES) if rows[i]}

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain values."""
        return {
            "test_loss": self.loss,
            "test_accuracy": self.accuracy,
            "class_accuracy": self.class_accuracy,
            "samples": self.samples,
            "confusion": self.confusion.tolist(),
        }

    def summed_over_workers(self, worker: Worker) -> Scores:
        """Return the sums over all workers, on each of them; a collective call."""
        if worker.world_size == 1:
            return self
        loss_sum = self.loss_sum.to(worker.device)
        confusion = self.confusion.to(worker.device)
        torch.distributed.all_reduce(loss_sum)
        torch.distributed.all_reduce(confusion)
        return Scores(loss_sum.cpu(), confusion.cpu())

    def __add__(self, other: Scores) -> Scores:
        return Scores(self.loss_sum + other.loss_sum, self.confusion + other.confusion)


class Mistake(TypedDict):
    """A test image that was classified wrong."""

    index: int  # in the test set
    label: str
    prediction: str
    confidence: float  # of the prediction, 0..1
    pixels: str  # base64 of 784 bytes


@torch.inference_mode()
def score(
    model: nn.Module, samples: Samples, config: DataConfig, autocast: AbstractContextManager[Any]
) -> tuple[Scores, Tensor]:
    """Return a model's scores over the samples, and its log-probabilities, float [n, 10] on the CPU.

    Scores with the model in evaluation mode and puts it back afterwards. The loss is plain cross entropy, without the
    label smoothing of training.
    """
    was_training = model.training
    model.eval()
    batches = []
    for first in range(0, len(samples), BATCH_SIZE):
        images = data.normalise(samples.images[first : first + BATCH_SIZE], config)
        with autocast:
            logits = model(images)
        batches.append(functional.log_softmax(logits.float(), dim=1))
    model.train(was_training)
    log_probabilities = torch.cat(batches) if batches else torch.zeros(0, len(CLASSES), device=samples.labels.device)
    loss_sum = (
        functional.nll_loss(log_probabilities, samples.labels, reduction="sum").cpu().double()
    )  # on the CPU: mps has no float64
    cells = samples.labels * len(CLASSES) + log_probabilities.argmax(1)
    confusion = torch.bincount(cells, minlength=len(CLASSES) ** 2).view(len(CLASSES), len(CLASSES))
    return Scores(loss_sum, confusion.cpu()), log_probabilities.cpu()


def worst_mistakes(samples: Samples, positions: Tensor, log_probabilities: Tensor) -> list[Mistake]:
    """Return the MISTAKES mistakes made with the most confidence, worst first.

    `positions` int64 [n] are those of the samples in the test set, `log_probabilities` float [n, 10] as from `score`.
    """
    labels = samples.labels.cpu()
    confidence, predictions = log_probabilities.exp().max(1)
    wrong = torch.where(predictions != labels)[0]
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)[:MISTAKES]]
    return [
        {
            "index": int(positions[i]),
            "label": CLASSES[int(labels[i])],
            "prediction": CLASSES[int(predictions[i])],
            "confidence": round(float(confidence[i]), 4),
            "pixels": base64.b64encode(samples.images[i].cpu().numpy().tobytes()).decode(),
        }
        for i in worst.tolist()
    ]


def load_weights(uri: str, config: Config) -> nn.Module:
    """Return the network of a config with the weights of a safetensors object.

    Raises:
        StorageError: the object is missing or damaged, or holds the weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from trainer.training.model import build

    model = build(config.model)
    content = store.read(uri)
    if content is None:
        raise StorageError(f"{uri} does not exist: the run has no final weights", "let it finish first")
    try:
        weights = load(content)
    except SafetensorError as error:
        raise StorageError(f"{uri} is not a complete safetensors file ({error})", "train the run again") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        actual = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        differing = sorted(name for name in expected | actual if expected.get(name) != actual.get(name))
        name = differing[0] if differing else "?"
        raise StorageError(
            f"{uri} holds the weights of another network: {name} is {actual.get(name, 'missing')}, "
            f"but the config expects {expected.get(name, 'no such tensor')}",
            "give the config it was trained with by --recipe or --config",
        ) from None
    return model
