"""Checks before anything starts: machine, storage, and the run's name. No Ray and no PyTorch, so it takes no time."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Config, differences
from trainer.driver import fork
from trainer.driver.fork import Fork
from trainer.errors import ConflictError, ResourceError
from trainer.storage import seal, store
from trainer.storage.record import Record, at, find
from trainer.training import device

SMALL_BATCH_PER_WORKER = 128  # samples; below it a second CPU worker costs more than it brings: make bench, workers
CLUSTER_ANSWERS_S = 2.0


@dataclass(frozen=True)
class Run:
    """A run that was checked and can be started: its record, config, data and the CPU cores of each worker.

    One that has finished has its result; `damage` says in sentences what is not as it left it.
    """

    record: Record
    config: Config
    data_folder: Path | None
    cpus_per_worker: int
    fork: Fork | None = None
    finished: dict[str, Any] | None = None
    damage: tuple[str, ...] = ()


def prepare(
    name: str,
    config: Config,
    runs: str,
    data_folder: Path | None,
    fork_of: str | None = None,
    from_checkpoint: str | None = None,
) -> Run:
    """Check all that can be known before anything starts; takes well under a second where `runs` is a folder.

    With `fork_of`, a run there, the new one begins with its newest checkpoint, or with the one named `from_checkpoint`.

    Raises:
        ResourceError, StorageError, ConflictError: the run cannot start here, there, or under this name.
        ConfigError, CheckpointError: it cannot begin with that checkpoint.
    """
    cpus_per_worker = check_resources(config)
    store.check(runs)
    record = at(store.join(runs, name))
    folder = data_folder.expanduser().absolute() if data_folder else None
    check_name_is_free(record, config)
    result, damage = seal.result(record)
    begins = fork.find(find(fork_of, runs), config, from_checkpoint) if fork_of and not result else None
    return Run(record, config, folder, cpus_per_worker, begins, result, damage)


def check_resources(config: Config) -> int:
    """CPU cores each worker gets.

    Raises:
        ResourceError: this machine has not the CPU cores or GPUs for the workers, or the cluster does not answer.
    """
    low, high = config.worker_range
    if address := os.environ.get("RAY_ADDRESS"):
        check_cluster(address)
        return config.cpus_per_worker or 1  # a cluster may grow: Ray knows better
    cores = device.cpu_count()
    if config.gpu:
        _check_gpus(high if device.gpu_kind() == "mps" else low)  # Ray does not count a Mac's one GPU
    cpus = config.cpus_per_worker or max(1, cores // high)
    if low * cpus > cores:
        raise ResourceError(
            f"workers: {config.workers} with {cpus} CPU cores each need {low * cpus}, and this machine has {cores}; "
            f"use --workers {max(1, cores // cpus)} or --cpus-per-worker {max(1, cores // low)}, or run on a cluster."
        )
    return cpus


def check_cluster(address: str) -> None:
    """Knock at a Ray cluster's door: Ray itself would knock for minutes.

    Raises:
        ResourceError: nobody answers at `address`, a host and port.
    """
    named = re.fullmatch(r"(?:ray://)?([^/:]+):(\d+)", address)
    if not named:  # such as `auto`: Ray's to understand
        return
    try:
        socket.create_connection((named[1], int(named[2])), timeout=CLUSTER_ANSWERS_S).close()
    except OSError as error:
        raise ResourceError(
            f"RAY_ADDRESS: no Ray cluster answers at {address} ({error.strerror or error}); correct it, or unset it to "
            "train on this machine."
        ) from None


def _check_gpus(workers: int) -> None:
    gpus = device.gpu_count()
    if not gpus:
        raise ResourceError("gpu: true, but this machine has no GPU that PyTorch can use; train without --gpu.")
    if workers > gpus:
        raise ResourceError(f"workers: {workers} need a GPU each, and this machine has {gpus}; use --workers {gpus}.")


def check_name_is_free(record: Record, config: Config) -> None:
    """Refuse the name of a run with another config. (One that is going on is refused by its lease.)

    Raises:
        ConflictError: says what differs.
    """
    changed = differences(record.config(), config) if record.exists() else []
    if changed:
        runs = store.parent(record.place)
        raise ConflictError(
            f"name: {record.name} is a run in {runs} with another config ({'; '.join(changed)}); choose another "
            "--name, give it the same config, or continue from its checkpoint as a run of its own by --fork NEW."
        )


def warnings(config: Config) -> list[str]:
    """What is allowed but probably not meant, in sentences."""
    _, high = config.worker_range
    share = config.global_batch_size // high
    if high > 1 and not config.gpu and share < SMALL_BATCH_PER_WORKER:
        return [
            (
                f"workers: {config.workers} share a global batch of {config.global_batch_size}, {share} samples each; "
                f"below {SMALL_BATCH_PER_WORKER} on CPUs talking costs more than more workers bring: use one worker, "
                "or a larger global_batch_size."
            )
        ]
    return []
