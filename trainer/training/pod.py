"""What Kubernetes says of the pod that this process runs in: the chart's variables, and when kubelet did what.

Training code has no token of the cluster, so nothing is asked. Kubelet mounts the volumes when a pod has its node,
then pulls the image, then starts the container: the time stamps of the first and the last are readable from inside.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from trainer.storage.schema import Pod

INFO = Path("/etc/podinfo")  # a volume of the pod's own fields, in helm/training/templates/_pod.tpl
# in the environment of a pod's containers, from the same template
GROUP, NODE, INSTANCE_TYPE, ZONE, SPOT, IMAGE = (
    f"TRAINER_{name}" for name in ("GROUP", "NODE", "INSTANCE_TYPE", "ZONE", "SPOT", "IMAGE")
)


def facts(environment: Mapping[str, str] = os.environ, info: Path = INFO) -> Pod | None:
    """Return what is known of this pod; None outside the chart's pods. What is unknown is left out."""
    if GROUP not in environment:
        return None
    pod: Pod = {"pod": platform.node(), "group": environment[GROUP], "spot": environment.get(SPOT) == "true"}
    if node := environment.get(NODE):
        pod["node"] = node
    if instance_type := environment.get(INSTANCE_TYPE):
        pod["instance_type"] = instance_type
    if zone := environment.get(ZONE):
        pod["zone"] = zone
    if image := environment.get(IMAGE):
        pod["image"] = image
    if (mounted_at := _mounted_at(info)) is not None:
        pod["mounted_at"] = mounted_at
    pod["container_began_at"] = _container_began_at()
    return pod


def image() -> str:
    """Return the image of this pod as the chart names it, empty outside its pods."""
    return os.environ.get(IMAGE, "")


def _mounted_at(info: Path) -> float | None:
    """When kubelet made the volume: its files are links to a folder that is written once."""
    try:
        return round((info / "..data").lstat().st_mtime, 3)
    except OSError:
        return None


def _container_began_at() -> float:
    """When the container's first process was started; process 1 is another where pods share process IDs."""
    try:
        return round(psutil.Process(1).create_time(), 3)
    except psutil.Error:
        return round(time.time(), 3)
