"""Weights scored on the test set by stateless Ray tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import CLASSES, Config
from trainer.driver import ray_cluster
from trainer.errors import StorageError, TrainerError
from trainer.storage import layout, seal
from trainer.storage.record import Record
from trainer.training import device, fetch

if TYPE_CHECKING:
    from trainer.training.evaluate import Scores


def weights_of(record: Record) -> str:
    """Return the URI of a run's final weights.

    Raises:
        StorageError: they are damaged.
    """
    if damage := seal.verify(record).get(layout.WEIGHTS):
        raise StorageError(
            f"{record.weights} {damage}",
            "run the same `trainer train` again: it rebuilds them from the last checkpoint",
        )
    return record.weights


def evaluate(
    weights: str, config: Config, data_folder: Path | None, tasks: int | None, log: Callable[[str], None]
) -> tuple[Scores, list[dict[str, Any]]]:
    """Return scores and worst mistakes of weights on the test set, in `tasks` shards: by default one a CPU core.

    Raises:
        DataError, StorageError: there is no data set, or no such weights.
    """
    fetch.find_dataset(data_folder, log)
    from trainer.training import evaluate as training

    training.load_weights(weights, config)  # a wrong file is refused here, not in every task
    with ray_cluster.connected():
        return _in_tasks(weights, config, data_folder, tasks or device.cpu_count())


def _in_tasks(uri: str, config: Config, data_folder: Path | None, tasks: int) -> tuple[Scores, list[dict[str, Any]]]:
    """Score weights in Ray tasks. A task holds no state and may run anywhere, or twice: the sums are the same."""
    import ray
    import torch

    from trainer.training.evaluate import MISTAKES, Scores

    shard = ray.remote(num_cpus=1, max_retries=3)(_score_shard)
    pending = [shard.remote(uri, config.model_dump(), data_folder, rank, tasks) for rank in range(tasks)]
    parts: list[Any] = ray.get(pending)
    for part in parts:
        if isinstance(part, TrainerError):
            raise part
    scores = Scores(torch.zeros((), dtype=torch.float64), torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64))
    for loss_sum, confusion, _ in parts:
        scores += Scores(torch.tensor(loss_sum), torch.tensor(confusion))  # Ray's arrays are read-only
    mistakes = sorted((mistake for *_, part in parts for mistake in part), key=lambda mistake: -mistake["confidence"])
    return scores, mistakes[:MISTAKES]


def _score_shard(uri: str, settings: dict[str, Any], data_folder: Path | None, rank: int, tasks: int) -> Any:
    import torch

    from trainer.training import data
    from trainer.training.evaluate import load_weights, score, worst_mistakes

    try:
        config = Config.model_validate(settings)
        model = load_weights(uri, config)
        folder = fetch.find_dataset(data_folder, log=lambda _: None)
        _, test = data.load(folder, config.data.validation_samples)
        share, positions = data.share(test, rank, tasks)
        precision, _ = device.choose_precision(config, torch.device("cpu"))
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
        scores, log_probabilities = score(model, share, config.data, autocast)
    except TrainerError as error:
        return error  # as a value: an exception would arrive wrapped in Ray's own
    mistakes = worst_mistakes(share, positions, log_probabilities)
    return scores.loss_sum.numpy(), scores.confusion.numpy(), mistakes
