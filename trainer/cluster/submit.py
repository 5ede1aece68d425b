"""Submitting a run: check everything that can be known, then create its RayJob, or join the one that exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer import resolve
from trainer.cluster import outcome, rayjob, worker_groups
from trainer.cluster.api import RIGHTS, AlreadyExistsError, KubeClient, KubeObject, kubectl
from trainer.cluster.outcome import Outcome
from trainer.config import Config
from trainer.errors import ClusterError, ConflictError, InterruptedRunError, NoSuchRunError, TrainerError

GONE_WITHIN_S = 180.0  # a head that ignores SIGTERM takes 30 s, workers that drain take 90
TRIES = 20
READ_BY_FOLLOWERS_S = 3.0  # followers poll every two seconds, and are to read who stopped the run
NAMES_SHOWN = 8


@dataclass(frozen=True)
class Submitted:
    """A run's RayJob, and whether this call created it."""

    job: KubeObject
    config: Config
    created: bool


def submit(
    kube: KubeClient,
    name: str,
    cluster: str,
    recipe: str | None,
    file: Path | None,
    overrides: Sequence[str],
    log: Callable[[str], None],
    dry_run: bool = False,
) -> Submitted:
    """Create the RayJob of a run on its ``own`` Ray cluster or the ``standing`` one, or find the existing one.

    A run of this name and config that is running or has finished is joined; one that failed or was stopped gets a new
    RayJob and resumes from its checkpoints. `log` gets a line for what takes time. With `dry_run` the cluster is only
    asked whether it would admit the RayJob.

    Raises:
        TrainerError: the config, the name, the workers, the rights or the cluster do not allow it; nothing was created.
    """
    rayjob.check_name(name)
    check_rights(kube)
    release, templates = kube.job_templates()
    recipe = recipe or resolve.DEFAULT_RECIPE
    config = resolve.load(recipe, file, overrides, kube.train_settings(release))
    job = rayjob.build(templates, cluster, name, recipe, config)
    rayjob.note_submission(job, kube.now)
    if cluster == "standing":
        check_standing_cluster(kube, job, config)
    for _ in range(TRIES):
        existing = kube.rayjob(name)
        if existing is not None:
            rayjob.check_same(existing, config, kube.namespace)
            if not has_failed(existing):
                return Submitted(existing, config, created=False)
            if dry_run:
                return Submitted(existing, config, created=False)
            log(f"Run {name} did not finish last time; replacing its RayJob and resuming from the last checkpoint.")
            remove(kube, existing)
        try:
            return Submitted(kube.create_rayjob(job, dry_run=dry_run), config, created=True)
        except AlreadyExistsError:  # another submit of this name was faster
            time.sleep(1.0)
    raise ConflictError(
        f"name: another submit of {name} in {kube.namespace} is in progress", "try again shortly", retry=True
    )


def check_rights(kube: KubeClient) -> None:
    """Check that this user may do what a submit needs.

    Raises:
        ClusterError: names each missing right.
    """
    if missing := missing_rights(kube):
        raise ClusterError(
            f"rights: you may not {', '.join(missing)} in namespace {kube.namespace} of {kube.context}",
            "ask the cluster's administrator to add you to access.subjects in the values of helm/training",
        )


def missing_rights(kube: KubeClient) -> list[str]:
    """Return what this user may not do of what a submit needs: verbs with their resources."""
    return [f"{verb} {resource}" for verb, group, resource in RIGHTS if not kube.is_allowed(verb, group, resource)]


def check_standing_cluster(kube: KubeClient, job: KubeObject, config: Config) -> None:
    """Check that the standing cluster exists and can hold the workers.

    Raises:
        ClusterError, ResourceError: it does not, or cannot.
    """
    name = job["spec"]["clusterSelector"]["ray.io/cluster"]
    cluster = kube.raycluster(name)
    if cluster is None:
        raise ClusterError(
            f"--cluster: {kube.namespace} has no RayCluster {name}", "use --cluster own, or set cluster.enabled=true"
        )
    worker_groups.group_for(cluster["spec"].get("workerGroupSpecs", []), config)


def has_failed(job: KubeObject) -> bool:
    """Return whether a run has ended for good without finishing."""
    ended = outcome.of_run(job)
    return ended is not None and ended.status != "finished"


@dataclass(frozen=True)
class Stop:
    """What became of stopping a run: how it had `ended` before, if it had, and otherwise what is left of it."""

    job: KubeObject
    ended: Outcome | None
    had_started: bool  # its driver, and so its record
    listed: bool = True  # by `list` and `status`, until its RayJob is deleted


def stop(kube: KubeClient, name: str, wait: bool = True, log: Callable[[str], None] = lambda _: None) -> Stop:
    """Stop a run, and wait for its pods unless told not to; one that has ended stays as it is.

    Deleting its RayJob is what signals its driver; suspending it would not. A suspended RayJob then takes its place,
    so that the run is still listed. `log` gets a line before what takes time.

    Raises:
        NoSuchRunError: the run does not exist.
        InterruptedRunError: its pods still exist after three minutes.
    """
    job = find_rayjob(kube, name)
    ended = outcome.of_run(job)
    if ended is not None:
        return Stop(job, ended, rayjob.has_started(job))
    log(f"Stopping {name}: signalling its driver{' and waiting for its pods to end' if wait else ''}.")
    kube.annotate_rayjob(name, {rayjob.STOPPED_BY: rayjob.me()})
    time.sleep(READ_BY_FOLLOWERS_S)
    try:
        job = remove(kube, job, wait)
    finally:  # also if its pods take too long, or on Ctrl-C meanwhile
        listed = _keep_listed(kube, job)
    return Stop(job, None, rayjob.has_started(job), listed)


def _keep_listed(kube: KubeClient, job: KubeObject) -> bool:
    """Put a suspended RayJob in the place of one that was deleted; return whether there is any now."""
    with suppress(TrainerError):  # no right to create one, or the old one is still there: it is stopped all the same
        kube.create_rayjob(rayjob.stopped(job, rayjob.me()))
        return True
    with suppress(TrainerError):
        return kube.rayjob(job["metadata"]["name"]) is not None
    return False


def remove(kube: KubeClient, job: KubeObject, wait: bool = True) -> KubeObject:
    """Delete a RayJob and wait until it is gone, and its pods unless told not to. Return it as it was last.

    Raises:
        InterruptedRunError: they still exist after three minutes.
    """
    name = job["metadata"]["name"]
    latest = kube.rayjob(name)
    if is_same(latest, job) and latest is not None:
        job = latest  # it may have a Ray cluster by now
    kube.delete_rayjob(job)
    until = time.monotonic() + GONE_WITHIN_S
    while time.monotonic() < until:
        if not is_same(kube.rayjob(name), job) and not (wait and pods_of(kube, job)):
            return job
        time.sleep(1.0)
    raise InterruptedRunError(
        f"RayJob {name} was deleted, but its pods still exist after {GONE_WITHIN_S:.0f} s",
        f"see which: {kubectl(kube)} get pods",
    )


def is_same(found: KubeObject | None, job: KubeObject) -> bool:
    """Return whether a RayJob that was found is this one, and not a later one of its name."""
    return found is not None and bool(found["metadata"]["uid"] == job["metadata"]["uid"])


def pods_of(kube: KubeClient, job: KubeObject) -> list[KubeObject]:
    """Return the pods of a run: its submitters, and those of its own Ray cluster; a standing cluster is not its own."""
    labels = {("batch.kubernetes.io/job-name", job["metadata"]["name"])}
    cluster = (job.get("status") or {}).get("rayClusterName")
    if cluster and not job["spec"].get("clusterSelector"):
        labels.add(("ray.io/cluster", cluster))
    return [pod for pod in kube.pods() if labels & set((pod["metadata"].get("labels") or {}).items())]


def find_rayjob(kube: KubeClient, name: str) -> KubeObject:
    """Return the RayJob of a run.

    Raises:
        NoSuchRunError: there is none.
    """
    job = kube.rayjob(name)
    if job is None:
        names = [other["metadata"]["name"] for other in kube.rayjobs()]
        known = ", ".join(names[-NAMES_SHOWN:]) or "none"
        raise NoSuchRunError(
            f"name: there is no run {name} in {kube.namespace} of {kube.context}, which has {known}",
            "a run whose RayJob is gone is still in the storage: name that with --storage s3://...",
        )
    return job
