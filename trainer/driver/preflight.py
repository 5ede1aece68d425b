"""Checks before anything starts: machine, storage, and the run's name. No Ray and no PyTorch, so it is fast."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Config, differences, parse_workers
from trainer.driver import fork, ray_cluster
from trainer.driver.fork import Fork
from trainer.errors import ConflictError, ResourceError
from trainer.storage import seal, store
from trainer.storage.mirror import open_record
from trainer.storage.record import Record
from trainer.storage.schema import Result
from trainer.training import device

SMALL_BATCH_PER_WORKER = 128  # samples; below it a second CPU worker costs more than it gains: make bench, workers


@dataclass(frozen=True)
class Plan:
    """A run that was checked and can be started: its record, config, data folder and the CPU cores of each worker.

    `finished` is its result if it has finished already; `damage` has a sentence for each of its damaged files.
    """

    record: Record
    config: Config
    data_folder: Path | None
    cpus_per_worker: int
    fork: Fork | None = None
    finished: Result | None = None
    damage: tuple[str, ...] = ()


def prepare(
    name: str,
    config: Config,
    runs: str,
    data_folder: Path | None,
    fork_of: Record | None = None,
    from_checkpoint: str | None = None,
) -> Plan:
    """Check everything that can be known before anything starts; well under a second where `runs` is a folder.

    With `fork_of`, another run, the new one starts from its newest checkpoint, or from the one named `from_checkpoint`.

    Raises:
        ResourceError, StorageError, ConflictError: the run cannot start here, there, or under this name.
        ConfigError, CheckpointError: it cannot start from that checkpoint.
    """
    cpus_per_worker = check_resources(config)
    store.check(runs)
    record = open_record(store.join(runs, name))
    folder = data_folder.expanduser().absolute() if data_folder else None
    check_name_is_free(record, config)
    record.check_lines()
    result, damage = seal.finished_result(record)
    start = fork.plan(fork_of, config, from_checkpoint) if fork_of and not result else None
    return Plan(record, config, folder, cpus_per_worker, start, result, damage)


def check_worker_count(settings: Mapping[str, Any]) -> None:
    """Refuse more workers than this machine has CPU cores, before anything else is said about the settings.

    Raises:
        ResourceError: there are too few cores.
    """
    fewest, most = parse_workers(settings.get("workers", 1))
    cores = device.cpu_count()
    if ray_cluster.is_own() and cores < fewest <= most:  # a range that is none is refused elsewhere
        plural = "core" if cores == 1 else "cores"
        raise ResourceError(
            f"workers: {settings['workers']} need at least one CPU core each, and this machine has {cores} {plural}",
            f"use --workers {cores} or fewer, or run on a cluster",
        )


def check_resources(config: Config) -> int:
    """Return the CPU cores that each worker gets.

    Raises:
        ResourceError: this machine lacks the CPU cores or GPUs for the workers, or the cluster is unreachable.
    """
    fewest, most = config.worker_range
    if address := ray_cluster.address():
        ray_cluster.check_address(address)
        return config.cpus_per_worker or 1  # a cluster may grow: Ray knows better
    cores = device.cpu_count()
    if config.gpu:
        _check_gpus(most if device.gpu_kind() == "mps" else fewest)  # Ray does not count a Mac's one GPU
    cpus = config.cpus_per_worker or max(1, cores // most)
    if fewest * cpus > cores:
        each = "core" if cpus == 1 else "cores"
        raise ResourceError(
            f"workers: {config.workers} with {cpus} CPU {each} each need {fewest * cpus}, and this machine has {cores}",
            f"use --workers {max(1, cores // cpus)}, --cpus-per-worker {max(1, cores // fewest)}, or run on a cluster",
        )
    return cpus


def _check_gpus(workers: int) -> None:
    gpus = device.gpu_count()
    if not gpus:
        found = (
            "nvidia-smi lists none" if device.gpu_kind() == "cuda" else "this machine has no GPU that PyTorch can use"
        )
        if device.gpu_names():
            found = f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')} leaves none"
        fix = "repair the driver, or train without --gpu" if device.gpu_kind() == "cuda" else "train without --gpu"
        raise ResourceError(f"gpu: true, but {found}", fix)
    if workers > gpus:
        raise ResourceError(f"workers: {workers} need a GPU each, and this machine has {gpus}", f"use --workers {gpus}")


def check_name_is_free(record: Record, config: Config) -> None:
    """Refuse the name of a run with another config. (A run that is still running is refused by its lease.)

    Raises:
        ConflictError: says what differs.
    """
    changed = differences(record.config(), config) if record.exists() else []
    if changed:
        runs = store.parent(record.place)
        raise ConflictError(
            f"name: {record.name} is a run in {runs} with another config ({'; '.join(changed)})",
            "choose another --name, use the same config, or start from its checkpoint: "
            f"trainer fork {record.name} NEW --storage {shlex.quote(runs)}",
        )


def warnings(config: Config) -> list[str]:
    """Return what is allowed but probably not meant, as sentences."""
    _, most = config.worker_range
    share = config.global_batch_size // most
    if most == 1 or config.gpu or share >= SMALL_BATCH_PER_WORKER:
        return []
    sentence = (
        f"workers: {config.workers} share a global batch of {config.global_batch_size}, {share} samples each; below "
        f"{SMALL_BATCH_PER_WORKER} on CPUs, communication costs more than another worker gains: use one worker, or a "
        "larger global_batch_size."
    )
    return [sentence]
