"""Prints a line for each object that is not ready, with what it lacks: `kubectl get ... -o json | python3 unready.py`.

Part of `k8s/deploy.sh`, which runs before there is an environment: the standard library only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

KubeObject = dict[str, Any]


def unready(items: list[KubeObject]) -> Iterator[str]:
    """Yield a line for each deployment, stateful set, Prometheus and pod that is not ready."""
    for item in items:
        kind = item["kind"]
        status = item.get("status", {})
        if kind in ("Deployment", "StatefulSet"):
            if status.get("readyReplicas", 0) < item["spec"].get("replicas", 1):
                yield f"{kind} {name(item)}"
        elif kind == "Prometheus":
            if not any(condition_is(status, "Available", "True")):
                yield f"{kind} {name(item)}"
        elif kind == "Pod":
            yield from (f"pod {name(item)}: {reason}" for reason in pod_reasons(status))


def pod_reasons(status: KubeObject) -> Iterator[str]:
    """Yield why a pod's containers do not run: a container that waits, or no node for the pod."""
    for container in status.get("containerStatuses", []):
        if waiting := container.get("state", {}).get("waiting"):
            yield f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    for condition in condition_is(status, "PodScheduled", "False"):
        yield str(condition.get("message", "not scheduled"))


def condition_is(status: KubeObject, kind: str, value: str) -> Iterator[KubeObject]:
    """Yield the conditions of this kind and value."""
    for condition in status.get("conditions", []):
        if condition["type"] == kind and condition["status"] == value:
            yield condition


def name(item: KubeObject) -> str:
    """Return namespace and name."""
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


if __name__ == "__main__":
    for line in unready(json.load(sys.stdin)["items"]):
        print(line)  # noqa: T201 # what this program is for
