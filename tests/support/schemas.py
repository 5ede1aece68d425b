"""Kubernetes' own schemas, from PyPI, and those of custom resources, from the operators that bring them. All strict."""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import yaml

ROOT = Path(__file__).parents[2]
PLATFORM = dict(
    line.split("=", 1)
    for line in (ROOT / "k8s" / "platform" / "versions.env").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)
# The oldest Kubernetes that the charts allow, and a new one.
KUBERNETES = ("v1.28.0", "v1.36.0")
NEWER = {
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}  # newer than that oldest; the chart requires 1.30
# kind -> chart in the environment, Go module and file in it
CUSTOM = {
    "RayCluster": ("KUBERAY_OPERATOR_CHART", "github.com/ray-project/kuberay/ray-operator", "ray.io_rayclusters.yaml"),
    "RayJob": ("KUBERAY_OPERATOR_CHART", "github.com/ray-project/kuberay/ray-operator", "ray.io_rayjobs.yaml"),
    "PodMonitor": (
        "PROMETHEUS_STACK_CHART",
        "github.com/prometheus-operator/prometheus-operator",
        "monitoring.coreos.com_podmonitors.yaml",
    ),
    "PrometheusRule": (
        "PROMETHEUS_STACK_CHART",
        "github.com/prometheus-operator/prometheus-operator",
        "monitoring.coreos.com_prometheusrules.yaml",
    ),
}
VERSION = {
    "github.com/ray-project/kuberay/ray-operator": PLATFORM["KUBERAY_OPERATOR_VERSION"],
    "github.com/prometheus-operator/prometheus-operator": PLATFORM["PROMETHEUS_OPERATOR_VERSION"],
}


class NoSchemaError(Exception):
    """Neither the operator's chart nor Go is here."""


def errors(manifest: dict[str, Any], release: str | None = None) -> list[str]:
    """What the schemas find wrong with an object, one line each; `release`: another one of its operator.

    Raises:
        NoSchemaError: a custom resource whose definition cannot be had on this machine.
    """
    kind = manifest["kind"]
    where = f"{kind} {manifest['metadata']['name']}"
    versions = KUBERNETES[1:] if kind in NEWER else KUBERNETES
    found = [_custom(kind, release)] if kind in CUSTOM else [_core(v, kind, manifest["apiVersion"]) for v in versions]
    return [
        f"{where}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
        for validator in found
        for error in validator.iter_errors(manifest)
    ]


@functools.cache
def _registry(version: str) -> tuple[Any, referencing.Registry[Any]]:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"{version}-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())
    return folder, referencing.Resource.from_contents(definitions) @ referencing.Registry()


@functools.cache
def _core(version: str, kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    folder, registry = _registry(version)
    group, _, short = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.split('.')[0]}-{short}" if group else f"{kind.lower()}-{short}"
    return jsonschema.Draft202012Validator(json.loads((folder / f"{name}.json").read_text()), registry=registry)


@functools.cache
def _custom(kind: str, release: str | None) -> jsonschema.Draft202012Validator:
    versions = _definition(kind, release)["spec"]["versions"]
    stored = next(version for version in versions if version["storage"])
    return jsonschema.Draft202012Validator(_strict(stored["schema"]["openAPIV3Schema"]))


def _definition(kind: str, release: str | None) -> dict[str, Any]:
    chart, module, file = CUSTOM[kind]
    if not release and chart in os.environ and (text := _output("helm", "show", "crds", os.environ[chart])):
        # one definition alone: parsing all of them takes seconds
        # (nor does every helm put a line of --- between two of them)
        definitions = re.split(r"^(?=apiVersion: apiextensions)", text, flags=re.MULTILINE)
        text = next(part for part in definitions if f"\n    kind: {kind}\n" in part)
    elif text := _output("go", "mod", "download", "-json", f"{module}@v{release or VERSION[module]}"):
        text = next(Path(json.loads(text)["Dir"]).rglob(file)).read_text()
    else:
        raise NoSchemaError(f"{kind}: its definition comes from helm and {chart}, or from go; neither gives it here")
    return next(crd for crd in yaml.load_all(text, yaml.CSafeLoader) if crd)


def _output(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return done.stdout if done.returncode == 0 else ""


def _strict(node: Any) -> Any:
    """An OpenAPI schema of a custom resource as a JSON schema that refuses what the API server would drop."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    # CEL rules need an API server, formats and defaults say nothing about what is allowed
    dropped = ("description", "default", "format", "x-kubernetes-validations")
    # every key of `properties` is a field's name, not a keyword
    strict = {
        key: {name: _strict(field) for name, field in value.items()} if key == "properties" else _strict(value)
        for key, value in node.items()
        if key not in dropped
    }
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
        if "kind" in node["properties"] and "metadata" in node["properties"]:
            strict["properties"]["metadata"] = {"type": "object"}  # the API server knows this one by itself
    if node.get("nullable"):
        strict["type"] = [node["type"], "null"]
    return strict
