"""Runs on a Kubernetes cluster, for Python programs and for the command line.

>>> from trainer.cluster import client
>>> run = client.submit("r1", overrides=["epochs=20", "workers=2"])
>>> outcome = client.follow(run)
>>> outcome.status, outcome.result["test_accuracy"]
('finished', 0.9018)

Every function takes a ``context`` of the kubeconfig and a ``namespace``; by default the current context, and its
namespace or the one that has the chart. None of them needs Ray or PyTorch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from trainer.cluster import bundle as bundles
from trainer.cluster import driver_log, outcome, rayjob, records, status
from trainer.cluster import submit as submitting
from trainer.cluster.api import KubeClient, KubeObject, NoKubeconfigError
from trainer.cluster.follow import Watch
from trainer.cluster.outcome import Outcome
from trainer.cluster.status import RunRow, RunStatus
from trainer.config import Config
from trainer.errors import ClusterError, NoSuchRunError, StorageError, TrainerError
from trainer.observe.display import Display, Event
from trainer.observe.text import say
from trainer.storage import layout, store
from trainer.storage import logs as run_logs
from trainer.storage.mirror import find_run
from trainer.storage.record import Record
from trainer.storage.schema import Point, Result

__all__ = [
    "Outcome",
    "Run",
    "RunList",
    "RunRow",
    "RunStatus",
    "Stopped",
    "bundle",
    "follow",
    "list_runs",
    "logs",
    "output",
    "record_from_log",
    "status_of",
    "stop",
    "submit",
]


NOT_OF_A_RECORD = {"metrics", "result", "message"}  # what a driver prints, and its events.jsonl does not have


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

    @property
    def has_finished(self) -> bool:
        """Whether it had finished before it was submitted now."""
        ended = outcome.of_run(self.job)
        return ended is not None and ended.status == "finished"


@dataclass(frozen=True)
class RunList:
    """The runs of a namespace or a storage, newest first.

    `note` says that no cluster was asked, if one was expected, and `missing` why one gave no answer.
    """

    rows: list[RunRow]
    note: str = ""
    missing: TrainerError | None = None


@dataclass(frozen=True)
class Stopped:
    """What became of stopping a run.

    `ended` is how it had ended before, and then nothing was done. `had_started` is whether its driver ever ran, and
    `listed` whether it is still listed; `submitted_with` are the options that submit it again. `record` is its record
    as it was left, if a storage was given and has it.
    """

    run: str
    namespace: str
    context: str
    ended: Outcome | None = None
    had_started: bool = True
    listed: bool = True
    submitted_with: Sequence[str] = ()
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
    """Return a client of one namespace of a cluster. Without a name it is the one that has the chart.

    Raises:
        NoKubeconfigError: there is no kubeconfig.
        ClusterError: it cannot be used, has no such context, or several namespaces have the chart.
    """
    kube = KubeClient(context, namespace)
    if note := kube.find_namespace():
        say(note, stderr=True)
    return kube


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
    dry_run: bool = False,
) -> Run:
    """Create a run's RayJob, or join the existing one of this name and config.

    The config is the recipe, then the cluster's settings, then `file`, then `overrides` as ``key=value``. `log`
    gets a line for each step that takes time. With `dry_run` nothing is created; the cluster only says whether it would
    admit the RayJob.

    Raises:
        TrainerError: the config, the name, the workers, the rights or the cluster do not allow it; nothing was created.
    """
    rayjob.check_name(name)  # before the cluster is asked anything
    kube = connect(context, namespace)
    submitted = submitting.submit(kube, name, cluster, recipe, file, overrides, log, dry_run)
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

    If the cluster has no such run, by its record in `storage`, or in this machine's storage.

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
    raw: bool = False,
    tail: int | None = None,
    since_s: float | None = None,
    context: str | None = None,
    namespace: str | None = None,
    storage: str | None = None,
) -> Iterator[str]:
    """Yield the lines of a run's log as `submit` shows them, with `follow` to the run's end; with `raw` as printed.

    Only the last `tail` lines, and those of the last `since_s` seconds, if given; then what is new. If the cluster has
    no such run, the events, points and result of its record in `storage`, or in this machine's storage.

    Raises:
        NoSuchRunError: the run does not exist.
        StorageError: the record cannot be read.
    """
    config: Config | None = None
    try:
        kube = connect(context, namespace)
        config = rayjob.config_of(submitting.find_rayjob(kube, name))
        batches = status.log_batches(kube, name, follow)
    except (NoKubeconfigError, NoSuchRunError) as error:
        place = _fallback(error, storage, name)
        config = find_run(name, place).config()
        batches = iter([[f"- {line}" for line in records.lines(place, name)]])
    readable = driver_log.Readable(config)
    earliest = None if since_s is None else time.time() - since_s
    for batch in batches:
        lines: list[tuple[float | None, str]] = []
        for line in batch:
            shown = readable.line(line)
            at = shown[0][0] if shown else driver_log.time_of(line)
            lines += [(at, line.removeprefix("- "))] if raw else shown
        recent = [line for at, line in lines if earliest is None or at is None or at >= earliest]
        yield from recent if tail is None else recent[max(0, len(recent) - tail) :]
        tail = None


def output(
    name: str,
    *,
    worker: int | None = None,
    attempt: int | None = None,
    context: str | None = None,
    namespace: str | None = None,
    storage: str | None = None,
) -> list[str]:
    """Return the last lines that a worker of a run printed, or its driver, as they are kept beside its record.

    They are those of the newest attempt if none is named. `storage` is where the run is kept; by default where its
    RayJob says, or this machine's storage.

    Raises:
        NoSuchRunError: neither a cluster nor the storage has the run, or no such output of it is kept.
        StorageError: the storage cannot be read from here.
    """
    process = "driver" if worker is None else f"worker-{worker}"
    if storage is None:
        try:
            kept_in = rayjob.storage_of(submitting.find_rayjob(connect(context, namespace), name))
        except (NoKubeconfigError, NoSuchRunError) as error:
            kept_in = _fallback(error, None, name)
        return run_logs.lines(store.join(kept_in or local_storage(), name), process, attempt)
    return run_logs.lines(find_run(name, store.normalise(storage)).place, process, attempt)


def bundle(
    name: str,
    file: Path,
    *,
    prometheus: str | None = None,
    context: str | None = None,
    namespace: str | None = None,
    storage: str | None = None,
) -> list[str]:
    """Write all that is known of a run to a ``.tar.gz`` for a bug report, without secrets; return the names in it.

    From its record in `storage`, by default where its RayJob says or this machine's; from the cluster, if it still has
    the run; and half an hour of metrics from the Prometheus at a URL.

    Raises:
        NoSuchRunError: neither a cluster nor the storage has the run.
        ConfigError: the file exists.
        StorageError: it cannot be written.
    """
    kube: KubeClient | TrainerError
    record: Record | TrainerError
    job = None
    try:
        kube = connect(context, namespace)
        job = kube.rayjob(name)
    except (NoKubeconfigError, ClusterError) as error:
        kube = error
    place = storage or (rayjob.storage_of(job) if job else None) or local_storage()
    try:
        record = find_run(name, store.normalise(place))
    except StorageError as error:
        if job is None:
            raise
        record = error
    return bundles.write(name, file, record, kube, prometheus)


def record_from_log(name: str, folder: Path, *, context: str | None = None, namespace: str | None = None) -> Record:
    """Write a run's record into `folder` as far as its RayJob and its driver's log have it, and return it.

    For where its storage cannot be reached. Config, points, events and result are in the log; confusion matrix,
    mistakes, environment and weights are in the record alone.

    Raises:
        NoSuchRunError: the run does not exist, or `trainer submit` did not create it.
    """
    kube = connect(context, namespace)
    config = rayjob.config_of(submitting.find_rayjob(kube, name))
    if config is None:
        raise NoSuchRunError(
            f"{name} was not created by `trainer submit`, so its config is not known", "read its record with --storage"
        )
    record = Record(folder / name)
    record.create(config, {})
    log = driver_log.Log()
    for batch in status.log_batches(kube, name, follow=False):
        for event in (event for line in batch for event in log.take(line) if isinstance(event, dict)):
            point = driver_log.as_point(event) if event["event"] == "metrics" else None
            if point is not None:
                record.add_point(point)
            elif event["event"] not in NOT_OF_A_RECORD:
                record.add_event(cast("Any", event))
    if log.result is not None:
        record.write_result(log.result)
    return record


def stop(
    name: str,
    *,
    wait: bool = True,
    context: str | None = None,
    namespace: str | None = None,
    storage: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Stopped:
    """Stop a run: signal its driver, and wait for its pods unless told not to. One that has ended stays as it is.

    A stopped run is still listed, and its record stays. `log` gets a line before what takes time.

    Raises:
        NoSuchRunError: the run does not exist.
        InterruptedRunError: its pods still exist after three minutes.
    """
    kube = connect(context, namespace)
    done = submitting.stop(kube, name, wait, log)
    stopped = Stopped(
        name,
        kube.namespace,
        kube.context,
        done.ended,
        done.had_started,
        done.listed,
        rayjob.submit_options(done.job),
    )
    if storage is None or done.ended is not None:
        return stopped
    with suppress(StorageError):  # the run is stopped all the same
        return replace(stopped, record=records.describe(store.normalise(storage), name))
    return stopped


def list_runs(storage: str | None = None, *, context: str | None = None, namespace: str | None = None) -> RunList:
    """Return the runs kept in `storage`, or those of a cluster if `context` or `namespace` is given; else both.

    Both are this machine's storage, and the namespace of the current context if there is a kubeconfig. A run of the
    cluster whose record is in the storage is listed once.

    Raises:
        ClusterError: the cluster that was named is unreachable or refuses.
        StorageError: the storage cannot be read, or does not exist.
    """
    if storage is not None:
        return RunList(records.rows(store.normalise(storage)))
    if context is not None or namespace is not None:
        return RunList(status.rows(connect(context, namespace)))
    here = _rows_here()
    there: list[RunRow] = []
    note, missing = "", None
    try:
        there = status.rows(connect())
    except NoKubeconfigError as error:
        note = f"No cluster was asked ({error.problem})." if "KUBECONFIG" in os.environ else ""
    except ModuleNotFoundError:  # without the extra `cluster`, no run was ever submitted from here
        note = ""
    except ClusterError as error:
        missing = error
    known = {row.record for row in there}
    rows = [*there, *(row for row in here if row.record not in known)]
    return RunList(sorted(rows, key=lambda row: row.started_at or 0.0, reverse=True), note, missing)


def _rows_here() -> list[RunRow]:
    """Return the runs of this machine's storage; there are none if nothing was ever kept in the default one."""
    place = local_storage()
    if not os.environ.get("TRAINER_STORAGE") and not Path(place).exists():
        return []
    return records.rows(place)


def local_storage() -> str:
    """Return the storage of this machine's runs: TRAINER_STORAGE, or the folder ``runs``."""
    return store.normalise(os.environ.get("TRAINER_STORAGE") or "runs")


def _fallback(error: TrainerError, storage: str | None, name: str) -> str:
    """Return the storage that has the record of a run which no cluster has; raise `error` if none has it.

    It is `storage`, or this machine's.
    """
    place = local_storage() if storage is None else store.normalise(storage)
    if store.read(store.part(store.join(place, name), layout.CONFIG)) is None:
        raise type(error)(f"{error.problem}, and {place} has no run {name}", error.fix)
    return place
