"""Submitting a run to a cluster: all that can be known is checked, then one RayJob is made, or the one there joined."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import resolve
from trainer.cluster import outcome, rayjob
from trainer.cluster.api import RIGHTS, Cluster, Object, TakenError
from trainer.config import Config
from trainer.errors import ClusterError, ConfigError, ConflictError, InterruptedRunError

GONE_S = 180.0  # a head that does not heed SIGTERM takes 30 s, workers that drain 90
TRIES = 20
READ_BY_ALL_S = 3.0  # whoever follows the run looks every two seconds, and is to read who stopped it


@dataclass(frozen=True)
class Submitted:
    """A run's RayJob, and whether this call made it."""

    job: Object
    config: Config
    made: bool


def submit(
    cluster: Cluster,
    name: str,
    kind: str,
    recipe: str | None,
    file: Path | None,
    overrides: Sequence[str],
    say: Callable[[str], None],
) -> Submitted:
    """Make the RayJob of a run on its ``own`` Ray cluster or the ``standing`` one, or find the one there is.

    A run of this name and config that goes on, or has finished, is joined; one that failed or was stopped begins
    again and continues from its checkpoints. `say` hears what takes its time.

    Raises:
        TrainerError: the config, the name, the workers, the rights or the cluster do not allow it; nothing was made.
    """
    rayjob.check_name(name)
    check_rights(cluster)
    release, templates = cluster.template()
    recipe = recipe or resolve.DEFAULT_RECIPE
    config = resolve.load(recipe, file, overrides, cluster.settings(release))
    wanted = rayjob.filled(rayjob.manifest(templates, kind, name, recipe, config), config)
    if kind == "standing":
        check_standing(cluster, wanted, config)
    for _ in range(TRIES):
        there = cluster.job(name)
        if there is not None and not _ended_badly(there):
            rayjob.check_same(there, config, cluster.namespace)
            return Submitted(there, config, made=False)
        if there is not None:
            rayjob.check_same(there, config, cluster.namespace)
            say(
                f"Run {name} did not get to its end before; its RayJob is removed first, and it continues from storage."
            )
            remove(cluster, there)
        try:
            return Submitted(cluster.create(wanted), config, made=True)
        except TakenError:  # by another submit of this name, or by one that is still going
            time.sleep(1.0)
    raise ConflictError(f"name: RayJob {name} in {cluster.namespace} comes and goes; try again when nobody else does.")


def check_rights(cluster: Cluster) -> None:
    """Raises ClusterError if this user lacks a right that a submit needs, naming it."""
    if lacking := lacking_rights(cluster):
        raise ClusterError(
            f"rights: you may not {', '.join(lacking)} in namespace {cluster.namespace} of {cluster.context}; whoever "
            "runs the cluster adds you to access.subjects in the values of helm/training."
        )


def lacking_rights(cluster: Cluster) -> list[str]:
    """What this user may not do of what a submit needs: verbs with their resources."""
    return [f"{verb} {resource}" for verb, group, resource in RIGHTS if not cluster.may(verb, group, resource)]


def check_standing(cluster: Cluster, job: Object, config: Config) -> None:
    """Whether the standing cluster is there and can hold the workers.

    Raises:
        ClusterError, ResourceError: it is not, or cannot.
    """
    name = job["spec"]["clusterSelector"]["ray.io/cluster"]
    there = cluster.ray_cluster(name)
    if there is None:
        raise ClusterError(f"--cluster: there is no RayCluster {name} in {cluster.namespace}; submit to an own one.")
    rayjob.group_for(there["spec"].get("workerGroupSpecs", []), config)


def _ended_badly(job: Object) -> bool:
    ended = outcome.of(job)
    state = (job.get("status") or {}).get("jobDeploymentStatus")
    return ended is not None and ended.status != "finished" and state not in ("Running", "Retrying")


def stop(cluster: Cluster, name: str) -> None:
    """End a run: its driver is told, its RayJob removed, and all its pods are gone when this returns.

    Raises:
        ConfigError: there is no such run.
        InterruptedRunError: its pods are still there after three minutes.
    """
    job = find(cluster, name)
    cluster.annotate(name, {rayjob.STOPPED_BY: rayjob.me()})
    time.sleep(READ_BY_ALL_S)
    remove(cluster, job)


def remove(cluster: Cluster, job: Object) -> None:
    """Delete a RayJob and wait until it and its pods are gone."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    now = cluster.job(name)
    job = now if now is not None and now["metadata"]["uid"] == uid else job  # it may have a Ray cluster by now
    cluster.delete(job)
    until = time.monotonic() + GONE_S
    while time.monotonic() < until:
        there = cluster.job(name)
        if (there is None or there["metadata"]["uid"] != job["metadata"]["uid"]) and not pods_of(cluster, job):
            return
        time.sleep(1.0)
    raise InterruptedRunError(
        f"RayJob {name} was deleted, and after {GONE_S:.0f} s its pods are still there; kubectl get pods says which."
    )


def pods_of(cluster: Cluster, job: Object) -> list[Object]:
    """The pods of a run: its submitters, and those of its own Ray cluster."""
    name, own = job["metadata"]["name"], (job.get("status") or {}).get("rayClusterName", "?")
    if "clusterSelector" in job["spec"]:
        own = "?"  # a standing cluster stays
    labels = [("ray.io/cluster", own), ("batch.kubernetes.io/job-name", name)]
    return [each for each in cluster.pods() if any(each["metadata"]["labels"].get(k) == v for k, v in labels)]


def find(cluster: Cluster, name: str) -> Object:
    """The RayJob of a run.

    Raises:
        ConfigError: there is none.
    """
    job = cluster.job(name)
    if job is None:
        known = ", ".join(each["metadata"]["name"] for each in cluster.jobs()) or "none"
        raise ConfigError(
            f"name: there is no run {name} in {cluster.namespace} of {cluster.context}, which has {known}; one whose "
            "RayJob is gone is in the storage: trainer list --storage s3://..."
        )
    return job
