"""The charts, rendered to objects, and ways to find one's way in them."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tools import manifests as generate

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = sorted(path.parent.name for path in (ROOT / "k8s").glob("*/training.yaml"))
CHARTS = ROOT / "tests" / "charts"

Manifest = dict[str, Any]


class UniqueKeys(yaml.CSafeLoader):
    """Kubernetes' YAML: its types are those of JSON, so a date is a string. A key given twice, which parsers settle in
    different ways, is refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the base class, after a look at the keys."""
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"key twice in {sorted(keys)}"
        return super().construct_mapping(node, deep=deep)


UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":bool", ":float", ":int", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def values_of(environment: str) -> dict[str, Any]:
    """The values that the chart `training` is installed with."""
    if environment == "defaults":
        return {"storage": {"uri": "s3://bucket/team"}}
    folder = CHARTS if environment == "kitchen-sink" else ROOT / "k8s"
    values: dict[str, Any] = yaml.safe_load((folder / environment / "training.yaml").read_text())
    return values


def render(values: dict[str, Any], chart: str = "training") -> list[Manifest]:
    """The chart's objects; those inside its ConfigMaps, which are to be applied later, follow their ConfigMap."""
    return copy.deepcopy(_rendered(json.dumps(values), chart))


@functools.cache
def _rendered(values: str, chart: str) -> list[Manifest]:
    text = generate.render(ROOT / "helm" / chart, json.loads(values), chart)
    found = [manifest for manifest in yaml.load_all(text, UniqueKeys) if manifest]
    inside = [
        yaml.load(content, UniqueKeys)
        for manifest in found
        if manifest["kind"] == "ConfigMap"
        for key, content in manifest["data"].items()
        if key.startswith("rayjob")
    ]
    return found + inside


def one(manifests: list[Manifest], kind: str, ending: str = "") -> Manifest:
    """The one object of its kind whose name ends so."""
    found = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(ending)]
    assert len(found) == 1, f"{len(found)} of {kind} *{ending}"
    return found[0]


def job(manifests: list[Manifest]) -> Manifest:
    """The RayJob with a cluster of its own."""
    (found,) = [m for m in manifests if m["kind"] == "RayJob" and "rayClusterSpec" in m["spec"]]
    return found


def clusters(manifests: list[Manifest]) -> list[Manifest]:
    """The specs of all Ray clusters: the job's and, where there is one, the standing one."""
    standing = [m["spec"] for m in manifests if m["kind"] == "RayCluster"]
    return [job(manifests)["spec"]["rayClusterSpec"], *standing]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name and template of each pod that Ray clusters and submitters are made of."""
    for spec in clusters(manifests):
        yield "head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield group["groupName"], group["template"]
    for manifest in manifests:
        if manifest["kind"] == "RayJob":
            yield "submitter", manifest["spec"]["submitterPodTemplate"]


def env(template: Manifest) -> dict[str, str]:
    """Environment of a pod's main container; of a field of the pod its path."""
    return {
        variable["name"]: variable["value"] if "value" in variable else variable["valueFrom"]["fieldRef"]["fieldPath"]
        for variable in template["spec"]["containers"][0]["env"]
    }


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Path of each value that is not a mapping."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path
