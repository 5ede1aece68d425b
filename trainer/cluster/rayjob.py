"""A run as a RayJob: the chart's manifest with the run's name, settings and workers, and what the RayJob says later.

Nothing here asks a cluster: objects are dictionaries with the keys of their YAML.
"""

from __future__ import annotations

import getpass
import json
import math
import re
import shlex
import socket
from contextlib import suppress
from decimal import Decimal
from typing import Any

import yaml

from trainer import resolve
from trainer.cluster.api import KubeObject
from trainer.config import Config, differences, flatten, from_mapping
from trainer.errors import ConfigError, ConflictError, ResourceError

TEMPLATES = {"own": "rayjob.yaml", "standing": "rayjob-standing.yaml"}
# Annotations. A later submit of the same name compares its config with CONFIG; the others are for people.
PREFIX = "trainer"
CONFIG = f"{PREFIX}/config"
CONFIG_SHA256 = f"{PREFIX}/config-sha256"
SUBMITTED_BY = f"{PREFIX}/submitted-by"
STOPPED_BY = f"{PREFIX}/stopped-by"
RESULT = f"{PREFIX}/result"
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


def build(templates: dict[str, str], cluster: str, name: str, recipe: str, config: Config) -> KubeObject:
    """Return the RayJob of a run, from the chart's templates by key; its Ray cluster starts with the workers it needs.

    Raises:
        ConfigError: the chart has no template for this kind of cluster.
        ResourceError: no worker group can hold the workers.
    """
    job = manifest(templates, cluster, name, recipe, config)
    if "rayClusterSpec" in job["spec"]:
        fit_workers(job["spec"]["rayClusterSpec"], config)
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
    job: KubeObject = yaml.safe_load(templates[key])
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


def me() -> str:
    """Return who runs this command, as user@host."""
    user = "somebody"
    with suppress(OSError, KeyError):  # a user without a name, as in a container
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


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
    with suppress(ConfigError, ValueError, RecursionError):
        settings = json.loads(annotations_of(job).get(CONFIG, ""))
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


def fit_workers(cluster: KubeObject, config: Config) -> None:
    """Let a RayCluster's spec start with the pods that a config's workers need, and no others.

    Raises:
        ResourceError: no worker group can hold them.
    """
    groups = cluster.get("workerGroupSpecs", [])
    chosen = group_for(groups, config)
    for group in groups:
        group["replicas"] = group.get("minReplicas", 0)
    chosen["replicas"] = max(chosen["replicas"], pods_for(chosen, config, config.worker_range[0]))


def group_for(groups: list[KubeObject], config: Config) -> KubeObject:
    """Return the first worker group with room for all of a config's workers.

    Raises:
        ResourceError: there is none.
    """
    fewest = config.worker_range[0]
    kind = "with GPUs" if config.gpu else "without GPUs"
    suitable = [group for group in groups if bool(gpus_of(group)) == config.gpu and workers_per_pod(group, config)]
    for group in suitable:
        if pods_for(group, config, fewest) <= max_pods(group):
            return group
    if not suitable:
        needed = f"{config.cpus_per_worker or 1} CPU cores" + (" and a GPU" if config.gpu else "")
        raise ResourceError(
            f"workers: no worker group {kind} has pods with {needed} ({_described(groups)})",
            "ask for less, or add a group to workerGroups in the values of helm/training",
        )
    most = max(max_pods(group) * workers_per_pod(group, config) for group in suitable)
    raise ResourceError(
        f"workers: {config.workers} do not fit into any worker group {kind} ({_described(suitable)})",
        f"use --workers {most}, or raise maxReplicas in the values of helm/training",
    )


def _described(groups: list[KubeObject]) -> str:
    parts = []
    for group in groups:
        gpus = f" and {gpus_of(group)} GPUs" if gpus_of(group) else ""
        parts.append(f"{group['groupName']}: at most {group['maxReplicas']} pods of {cpus_of(group)} cores{gpus}")
    return "; ".join(parts) or "the chart has none"


def max_pods(group: KubeObject) -> int:
    """Return how many pods a worker group can have."""
    return int(group["maxReplicas"]) * int(group.get("numOfHosts", 1))


def pods_for(group: KubeObject, config: Config, workers: int) -> int:
    """Return how many pods of a group hold so many workers."""
    return math.ceil(workers / workers_per_pod(group, config))


def workers_per_pod(group: KubeObject, config: Config) -> int:
    """Return how many workers fit into one pod of a group, as Ray counts."""
    by_cpu = cpus_of(group) // (config.cpus_per_worker or 1)
    return min(by_cpu, gpus_of(group)) if config.gpu else by_cpu


def cpus_of(group: KubeObject) -> int:
    """Return the cores that a pod of the group offers to Ray: its limit, rounded up."""
    return math.ceil(_quantity(_resources(group).get("cpu", 0)))


def gpus_of(group: KubeObject) -> int:
    """Return the GPUs of a pod of the group."""
    return int(_quantity(group.get("resources", {}).get("GPU", 0)))


def _resources(group: KubeObject) -> KubeObject:
    resources = group["template"]["spec"]["containers"][0].get("resources", {})
    return {**resources.get("requests", {}), **resources.get("limits", {})}


def _quantity(text: Any) -> Decimal:
    from kubernetes.utils import parse_quantity

    number: Decimal = parse_quantity(str(text))
    return number
