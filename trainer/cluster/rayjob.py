"""A run as a RayJob: the chart's manifest with the run's name, settings and workers, and what the RayJob says later.

Nothing here asks a cluster: objects are dictionaries with the keys of their YAML.
"""

from __future__ import annotations

import getpass
import json
import re
import shlex
import socket
from contextlib import suppress
from typing import Any

import yaml

from trainer import resolve
from trainer.cluster import worker_groups
from trainer.cluster.api import KubeObject
from trainer.config import Config, differences, flatten, from_mapping
from trainer.errors import ConfigError, ConflictError
from trainer.storage.parsing import from_json

TEMPLATES = {"own": "rayjob.yaml", "standing": "rayjob-standing.yaml"}
# Annotations. A later submit of the same name compares its config with CONFIG; the others are for people.
PREFIX = "trainer"
CONFIG = f"{PREFIX}/config"
CONFIG_SHA256 = f"{PREFIX}/config-sha256"
SUBMITTED_BY = f"{PREFIX}/submitted-by"
STOPPED_BY = f"{PREFIX}/stopped-by"
RESULT = f"{PREFIX}/result"
PROGRESS = f"{PREFIX}/progress"  # `observe.progress.Numbers`, for programs
SUBMITTED_AT = f"{PREFIX}/submitted-at"  # of a stopped run, whose RayJob was made again when it was stopped
SUBMITTED_AT_VARIABLE = "TRAINER_SUBMITTED_AT"  # in the driver's environment, read by trainer/driver/environment.py
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"  # a label
# KubeRay names a Service after the RayJob, which must begin with a letter; of its 47 characters a run's name takes 40.
RAYJOB_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


def check_name(name: str) -> str:
    """Return a run's name if a RayJob can have it too.

    Raises:
        ConfigError: it cannot.
    """
    resolve.check_name(name)
    if not RAYJOB_NAME.fullmatch(name):
        raise ConfigError(
            f"name: {name!r} cannot name a RayJob, which begins with a letter", f"use for example r-{name[:38]}"
        )
    return name


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML, whose types are those of JSON: dates, a lone `=` and `<<` are strings."""


_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0].rpartition(":")[2] not in ("timestamp", "value", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(template: str) -> KubeObject:
    """Return the object of one of the chart's templates."""
    job: KubeObject = yaml.load(template, _Loader)  # noqa: S506 # a SafeLoader
    return job


def build(templates: dict[str, str], cluster: str, name: str, recipe: str, config: Config) -> KubeObject:
    """Return the RayJob of a run, from the chart's templates by key; its Ray cluster starts with the workers it needs.

    Raises:
        ConfigError: the chart has no template for this kind of cluster.
        ResourceError: no worker group can hold the workers.
    """
    job = manifest(templates, cluster, name, recipe, config)
    if "rayClusterSpec" in job["spec"]:
        worker_groups.fit_workers(job["spec"]["rayClusterSpec"], config)
    return job


def manifest(templates: dict[str, str], cluster: str, name: str, recipe: str, config: Config) -> KubeObject:
    """Return the RayJob of a run with as many workers as the chart has.

    Raises:
        ConfigError: the chart has no template for this kind of cluster.
    """
    key = TEMPLATES[cluster]
    if key not in templates:
        raise ConfigError(
            f"--cluster: {cluster} needs a standing RayCluster, and the chart here has none",
            "set cluster.enabled=true in the values of helm/training, or leave the option out",
        )
    job = load(templates[key])
    job["metadata"]["name"] = name
    job["metadata"].setdefault("annotations", {}).update(
        {
            CONFIG: json.dumps(config.model_dump()),
            CONFIG_SHA256: config.sha256,
            SUBMITTED_BY: me(),
        }
    )
    job["spec"]["entrypoint"] = entrypoint(job["spec"]["entrypoint"], name, recipe, config)
    return job


def note_submission(job: KubeObject, now: float) -> None:
    """Tell the driver of a RayJob when it is created, in seconds since 1970 by the cluster's clock."""
    job["spec"]["entrypoint"] = f"env {SUBMITTED_AT_VARIABLE}={now:.3f} {job['spec']['entrypoint']}"


def me() -> str:
    """Return who runs this command, as user@host."""
    user = "somebody"
    with suppress(OSError, KeyError):  # a user without a name, as in a container
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def stopped(job: KubeObject, by: str) -> KubeObject:
    """Return a RayJob that keeps a stopped run listed: suspended, so that KubeRay starts nothing of it.

    It is in no queue of Kueue, which would start it.
    """
    metadata = job["metadata"]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != KUEUE_QUEUE}
    annotations = {key: value for key, value in annotations_of(job).items() if key.startswith(f"{PREFIX}/")}
    annotations.setdefault(SUBMITTED_AT, metadata["creationTimestamp"])
    return {
        "apiVersion": job.get("apiVersion", "ray.io/v1"),
        "kind": "RayJob",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {**annotations, STOPPED_BY: by},
        },
        "spec": {**job["spec"], "suspend": True},
    }


def submitted_at(job: KubeObject) -> str:
    """Return when a run was submitted, as Kubernetes writes times."""
    return annotations_of(job).get(SUBMITTED_AT) or str(job["metadata"].get("creationTimestamp") or "")


def entrypoint(template: str, name: str, recipe: str, config: Config) -> str:
    """Return the chart's command with this run's name, and each setting that differs from its recipe.

    The settings of the cluster's ``train.yaml`` are among them, so the option ``--config`` goes: a run that starts
    again after an upgrade of the chart is still the same run.
    """
    words = shlex.split(template)
    words[words.index("--name") + 1] = name
    if "--config" in words:
        at = words.index("--config")
        del words[at : at + 2]
    of_recipe = flatten(resolve.load(recipe).model_dump())
    settings = [
        f"{key}={_plain(value)}" for key, value in flatten(config.model_dump()).items() if value != of_recipe[key]
    ]
    return shlex.join([*words, "--recipe", recipe, *(word for setting in settings for word in ("--set", setting))])


def _plain(value: Any) -> str:
    # without spaces: Ray quotes words with spaces a second time, by the rules of Windows
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def check_same(job: KubeObject, config: Config, namespace: str) -> None:
    """Check that a RayJob is the run with this config.

    Raises:
        ConflictError: it has another config, or ``trainer submit`` did not create it.
    """
    name = job["metadata"]["name"]
    existing = config_of(job)
    if existing is None:
        raise ConflictError(
            f"name: {name} is a RayJob in {namespace} that `trainer submit` did not create", "choose another --name"
        )
    if existing.sha256 != config.sha256:
        raise ConflictError(
            f"name: {name} is a run in {namespace} with another config ({'; '.join(differences(existing, config))})",
            "choose another --name, or use the same config",
        )


def annotations_of(job: KubeObject) -> dict[str, str]:
    """Return an object's annotations."""
    return job["metadata"].get("annotations") or {}


def config_of(job: KubeObject) -> Config | None:
    """Return the config that a run was submitted with; None if it was not, or by a version with other settings."""
    with suppress(ConfigError, ValueError):
        settings = from_json(annotations_of(job).get(CONFIG, ""))
        return from_mapping(settings) if isinstance(settings, dict) else None
    return None


def storage_of(job: KubeObject) -> str | None:
    """Return the storage where the pods of a RayJob with its own cluster keep the run's record, if it says so."""
    head = (job["spec"].get("rayClusterSpec") or {}).get("headGroupSpec", {})
    for container in head.get("template", {}).get("spec", {}).get("containers", []):
        for variable in container.get("env", []):
            if variable["name"] == "TRAINER_STORAGE" and "value" in variable:
                return str(variable["value"])
    return None


def submit_options(job: KubeObject) -> list[str]:
    """Return the options that submit the same run again; none if ``trainer submit`` did not create it."""
    if config_of(job) is None:
        return []
    words = shlex.split(job["spec"].get("entrypoint", ""))
    settings = words[words.index("--recipe") :] if "--recipe" in words else []
    cluster = ["--cluster", "standing"] if job["spec"].get("clusterSelector") else []
    return ["--name", job["metadata"]["name"], *cluster, *settings]


def has_started(job: KubeObject) -> bool:
    """Return whether the driver of a run has ever run, as far as its RayJob tells."""
    state = (job.get("status") or {}).get("jobStatus") or "PENDING"
    return state != "PENDING" or failed_attempts(job) > 0 or PROGRESS in annotations_of(job)


def failed_attempts(job: KubeObject) -> int:
    """Return how many attempts of a RayJob have failed."""
    return int((job.get("status") or {}).get("failed") or 0)


def backoff_limit(job: KubeObject) -> int:
    """Return how many times KubeRay retries a RayJob."""
    return int(job["spec"].get("backoffLimit") or 0)
