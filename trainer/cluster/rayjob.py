"""A run as a RayJob: the chart's manifest with the run's name, settings and number of workers, and what it says later.

Nothing here asks a cluster: objects are dictionaries with the keys of their YAML.
"""

from __future__ import annotations

import copy
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
from trainer.config import Config, differences, flatten, from_mapping
from trainer.errors import ConfigError, ConflictError, ResourceError

Object = dict[str, Any]

TEMPLATES = {"own": "rayjob.yaml", "standing": "rayjob-standing.yaml"}
# Annotations. The config is what a later submit of the same name is compared with; the rest is for people.
PREFIX = "trainer"
CONFIG, CONFIG_SHA256, SUBMITTED_BY = f"{PREFIX}/config", f"{PREFIX}/config-sha256", f"{PREFIX}/submitted-by"
STOPPED_BY, RESULT = f"{PREFIX}/stopped-by", f"{PREFIX}/result"
RAY_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")  # KubeRay makes a Service of it, and has room for 47


def check_name(name: str) -> str:
    """A run's name, if it may be a RayJob's as well.

    Raises:
        ConfigError: it may not.
    """
    resolve.check_name(name)
    if not RAY_NAME.fullmatch(name):
        raise ConfigError(
            f"name: {name!r} cannot name a RayJob, which begins with a letter; take for example r-{name[:38]}."
        )
    return name


def manifest(templates: dict[str, str], cluster: str, name: str, recipe: str, config: Config) -> Object:
    """The RayJob of a run, from the chart's templates by key.

    Raises:
        ConfigError: the chart has no template for this kind of cluster.
    """
    key = TEMPLATES[cluster]
    if key not in templates:
        raise ConfigError(
            f"--cluster: {cluster} needs a standing RayCluster, and the chart here has none; set cluster.enabled=true "
            "in the values of helm/training, or leave the option out."
        )
    job: Object = yaml.safe_load(templates[key])
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
    """Who asks, for people to read."""
    user = "somebody"
    with suppress(OSError, KeyError):  # a user without a name, as in a container
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def entrypoint(given: str, name: str, recipe: str, config: Config) -> str:
    """The chart's command with this run's name, and each setting that its recipe has otherwise.

    The cluster's ``train.yaml`` is in those settings already: a run that starts again after an upgrade of the chart is
    still the same run.
    """
    words = shlex.split(given)
    words[words.index("--name") + 1] = name
    if "--config" in words:
        at = words.index("--config")
        del words[at : at + 2]
    before, after = flatten(resolve.load(recipe).model_dump()), flatten(config.model_dump())
    settings = [f"{key}={_plain(value)}" for key, value in after.items() if value != before[key]]
    return shlex.join([*words, "--recipe", recipe, *(word for each in settings for word in ("--set", each))])


def _plain(value: Any) -> str:
    # no space in it: Ray quotes words once more, by Windows' rules
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def check_same(job: Object, config: Config, place: str) -> None:
    """Whether a RayJob is the run that is being submitted.

    Raises:
        ConflictError: it is another, or not one of ``trainer submit``.
    """
    name = job["metadata"]["name"]
    known = config_of(job)
    if known is None:
        raise ConflictError(
            f"name: {name} is a RayJob in {place} that `trainer submit` did not make; choose another --name."
        )
    if known.sha256 != config.sha256:
        changed = "; ".join(differences(known, config))
        raise ConflictError(
            f"name: {name} is a run in {place} with another config ({changed}); choose another --name, or give it the "
            "same config."
        )


def config_of(job: Object) -> Config | None:
    """The config a run was submitted with; None if it was not, or by a version with other settings."""
    text = job["metadata"].get("annotations", {}).get(CONFIG)
    with suppress(ConfigError):
        return from_mapping(json.loads(text)) if text else None
    return None


def storage_of(job: Object) -> str | None:
    """Where the pods of a RayJob with its own cluster keep the run's record."""
    head = job["spec"].get("rayClusterSpec", {}).get("headGroupSpec", {})
    for container in head.get("template", {}).get("spec", {}).get("containers", []):
        for variable in container.get("env", []):
            if variable["name"] == "TRAINER_STORAGE" and "value" in variable:
                return str(variable["value"])
    return None


def fit_workers(cluster: Object, config: Config) -> None:
    """Let a RayCluster's spec begin with the pods that a config's workers need, and no others.

    Raises:
        ResourceError: no worker group can hold them.
    """
    groups = cluster.get("workerGroupSpecs", [])
    chosen = group_for(groups, config)
    for group in groups:
        group["replicas"] = group.get("minReplicas", 0)
    chosen["replicas"] = max(chosen["replicas"], pods_for(chosen, config, config.worker_range[0]))


def group_for(groups: list[Object], config: Config) -> Object:
    """The first worker group with room for all of a config's workers.

    Raises:
        ResourceError: there is none.
    """
    fewest = config.worker_range[0]
    kind = "with GPUs" if config.gpu else "without GPUs"
    suitable = [group for group in groups if bool(gpus_of(group)) == config.gpu and workers_a_pod(group, config)]
    for group in suitable:
        if pods_for(group, config, fewest) <= group["maxReplicas"] * group.get("numOfHosts", 1):
            return group
    if not suitable:
        each = f"{config.cpus_per_worker or 1} CPU cores" + (" and a GPU" if config.gpu else "")
        raise ResourceError(
            f"workers: no worker group {kind} has pods with {each} ({_described(groups)}); ask for less, or add a "
            "group to workerGroups in the values of helm/training."
        )
    most = max(group["maxReplicas"] * group.get("numOfHosts", 1) * workers_a_pod(group, config) for group in suitable)
    raise ResourceError(
        f"workers: {config.workers} do not fit into any worker group {kind} ({_described(suitable)}); use --workers "
        f"{most}, or raise maxReplicas in the values of helm/training."
    )


def _described(groups: list[Object]) -> str:
    parts = []
    for group in groups:
        gpus = f" and {gpus_of(group)} GPUs" if gpus_of(group) else ""
        parts.append(f"{group['groupName']}: at most {group['maxReplicas']} pods of {cpus_of(group)} cores{gpus}")
    return "; ".join(parts) or "there is none"


def pods_for(group: Object, config: Config, workers: int) -> int:
    """Pods of a group that hold so many workers."""
    return math.ceil(workers / workers_a_pod(group, config))


def workers_a_pod(group: Object, config: Config) -> int:
    """Workers that fit into one pod of a group, as Ray counts."""
    by_cpu = cpus_of(group) // (config.cpus_per_worker or 1)
    return min(by_cpu, gpus_of(group)) if config.gpu else by_cpu


def cpus_of(group: Object) -> int:
    """Cores that a pod of the group has for Ray: its limit, a part of a core as a whole one."""
    return math.ceil(_quantity(_resources(group).get("cpu", 0)))


def gpus_of(group: Object) -> int:
    """GPUs of a pod of the group."""
    return int(_quantity(group.get("resources", {}).get("GPU", 0)))


def _resources(group: Object) -> Object:
    resources = group["template"]["spec"]["containers"][0].get("resources", {})
    return {**resources.get("requests", {}), **resources.get("limits", {})}


def _quantity(text: Any) -> Decimal:
    from kubernetes.utils import parse_quantity

    number: Decimal = parse_quantity(str(text))
    return number


def filled(job: Object, config: Config) -> Object:
    """A copy of the manifest whose own Ray cluster, if it has one, begins with the workers of the config.

    Raises:
        ResourceError: no worker group can hold them.
    """
    job = copy.deepcopy(job)
    if "rayClusterSpec" in job["spec"]:
        fit_workers(job["spec"]["rayClusterSpec"], config)
    return job
