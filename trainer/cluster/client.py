"""Runs on a Kubernetes cluster, for Python programs and for the command line.

>>> from trainer.cluster import client
>>> run = client.submit("r1", overrides=["epochs=20", "workers=2"])
>>> outcome = client.follow(run)
>>> outcome.status, outcome.result["test_accuracy"]
('finished', 0.9018)

Every function takes a ``context`` of the kubeconfig and a ``namespace``; by default the current context, and its
namespace or `training`. None of them needs Ray or PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from trainer.cluster import rayjob, records, status
from trainer.cluster import submit as submitting
from trainer.cluster.api import KubeClient, KubeObject, NoKubeconfigError
from trainer.cluster.follow import Watch
from trainer.cluster.outcome import Outcome
from trainer.cluster.status import RunRow, RunStatus
from trainer.config import Config
from trainer.errors import NoSuchRunError, StorageError, TrainerError
from trainer.observe.display import Display, Event
from trainer.storage import layout, store
from trainer.storage.schema import Point, Result

__all__ = [
    "Outcome",
    "Run",
    "RunList",
    "RunRow",
    "RunStatus",
    "Stopped",
    "follow",
    "list_runs",
    "logs",
    "status_of",
    "stop",
    "submit",
]


@dataclass(frozen=True)
class Run:
    """A run that was submitted: where it is, its config, and whether this call created its RayJob."""

    name: str
    namespace: str
    context: str
    config: Config
    created: bool
    record: str | None  # URI of its record, as its pods know it
    kube: KubeClient
    job: KubeObject


@dataclass(frozen=True)
class RunList:
    """The runs of a namespace or a storage; `note` says why no cluster was asked, if one was expected."""

    rows: list[RunRow]
    note: str = ""


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped; `record` is its record as it was left, if a storage was given and has it."""

    run: str
    record: RunStatus | None = None


class _Silent:
    """A display that shows nothing."""

    def event(self, event: Event) -> None:
        """Do nothing."""

    def point(self, point: Point) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def connect(context: str | None = None, namespace: str | None = None) -> KubeClient:
    """Return a client of one namespace of a cluster. Nothing is asked yet.

    Raises:
        NoKubeconfigError: there is no kubeconfig.
        ClusterError: it cannot be used, or has no such context.
    """
    return KubeClient(context, namespace)


def submit(
    name: str,
    *,
    recipe: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    cluster: Literal["own", "standing"] = "own",
    context: str | None = None,
    namespace: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Run:
    """Create a run's RayJob, or join the existing one of this name and config.

    The config is the recipe, then the cluster's settings, then `file`, then `overrides` as ``key=value``. `log`
    gets a line for each step that takes time.

    Raises:
        TrainerError: the config, the name, the workers, the rights or the cluster do not allow it; nothing was created.
    """
    rayjob.check_name(name)  # before the cluster is asked anything
    kube = connect(context, namespace)
    submitted = submitting.submit(kube, name, cluster, recipe, file, overrides, log)
    storage = rayjob.storage_of(submitted.job)
    return Run(
        name=name,
        namespace=kube.namespace,
        context=kube.context,
        config=submitted.config,
        created=submitted.created,
        record=store.join(storage, name) if storage else None,
        kube=kube,
        job=submitted.job,
    )


def follow(run: Run, display: Display | None = None, storage: str | None = None) -> Outcome:
    """Show a run until it ends, and return how it ended; a run that cannot start is `pending`, and its RayJob stays.

    If the driver's log is gone, the result is read from `storage`, if that is given.

    Raises:
        ClusterError: the API server has been unreachable, or has refused, for too long. The run continues.
    """
    ended = Watch(run.kube, run.job, run.config, display or _Silent()).until_end()
    if ended.status == "finished" and ended.result is None and storage is not None:
        with suppress(StorageError):  # the run has finished all the same
            found = records.describe(store.normalise(storage), run.name)
            if found.state == "finished" and found.result is not None:
                return replace(ended, result=cast("Result", found.result))
    return ended


def status_of(
    name: str, *, context: str | None = None, namespace: str | None = None, storage: str | None = None
) -> RunStatus:
    """Return how a run is getting on, what it waits for, and how it ended.

    If its RayJob is gone, by its record in `storage`; without a kubeconfig by that, or by this machine's storage.

    Raises:
        NoSuchRunError: the run does not exist.
        StorageError: the record cannot be read.
    """
    try:
        return status.poll(connect(context, namespace), name)
    except (NoKubeconfigError, NoSuchRunError) as error:
        return records.describe(_fallback(error, storage, name), name)


def logs(
    name: str,
    *,
    follow: bool = False,
    context: str | None = None,
    namespace: str | None = None,
    storage: str | None = None,
) -> Iterator[str]:
    """Yield the lines of a driver's log, with `follow` to the run's end.

    If its RayJob is gone, the events and points of its record in `storage`; without a kubeconfig those in that, or in
    this machine's storage.

    Raises:
        NoSuchRunError: the run does not exist.
        StorageError: the record cannot be read.
    """
    try:
        yield from status.log_lines(connect(context, namespace), name, follow)
    except (NoKubeconfigError, NoSuchRunError) as error:
        yield from records.lines(_fallback(error, storage, name), name)


def stop(name: str, *, context: str | None = None, namespace: str | None = None, storage: str | None = None) -> Stopped:
    """Stop a run: signal its driver, delete its RayJob, and wait for its pods. Its record stays.

    Raises:
        NoSuchRunError: the run does not exist.
        InterruptedRunError: its pods still exist after three minutes.
    """
    submitting.stop(connect(context, namespace), name)
    if storage is None:
        return Stopped(name)
    with suppress(StorageError):  # the run is stopped all the same
        return Stopped(name, records.describe(store.normalise(storage), name))
    return Stopped(name)


def list_runs(storage: str | None = None, *, context: str | None = None, namespace: str | None = None) -> RunList:
    """Return the runs kept in `storage`; without it the namespace's; without a kubeconfig this machine's.

    Raises:
        ClusterError: the cluster is unreachable or refuses.
        StorageError: the storage cannot be read.
    """
    if storage is not None:
        return RunList(records.rows(store.normalise(storage)))
    try:
        kube = connect(context, namespace)
    except NoKubeconfigError as error:
        place = local_storage()
        note = f"No cluster was asked ({error.problem}). These are the runs in {place}."
        return RunList(records.rows(place), note)
    return RunList(status.rows(kube))


def local_storage() -> str:
    """Return the storage of this machine's runs: TRAINER_STORAGE, or the folder ``runs``."""
    return store.normalise(os.environ.get("TRAINER_STORAGE") or "runs")


def _fallback(error: TrainerError, storage: str | None, name: str) -> str:
    """Return the storage that has the record of a run which no cluster has; raise `error` if none has it."""
    if storage is None and not isinstance(error, NoKubeconfigError):
        raise error
    place = local_storage() if storage is None else store.normalise(storage)
    if store.read(store.join(place, name, layout.CONFIG)) is None:
        raise type(error)(f"{error.problem}, and {place} has no run {name}", error.fix)
    return place
