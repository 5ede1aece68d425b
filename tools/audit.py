"""Hold every object of the charts, and every pod that they make later, against checkov and kube-score: `make audit`.

The pods are inside RayJobs, which neither tool looks into: here each becomes a Pod of its own. What they find is either
repaired or stands below with its reason; an exception that nothing needs any more is an error as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.manifests import ROOT, render

TOOLS = ROOT / ".tools"
KUBE_SCORE = TOOLS / "bin" / "kube-score"
CHECKOV = TOOLS / "checkov" / "bin" / "checkov"
NAMESPACE = "training"

# Rule -> why what it finds is right as it is.
EXCEPTIONS = {
    "CKV_K8S_8": "the submitter and tests are jobs that end; Ray's containers have a liveness probe",
    "CKV_K8S_9": "the submitter and tests are jobs that end; Ray's containers have a readiness probe",
    "CKV_K8S_15": "a tag or digest that never changes needs no second pull; kind's nodes have the image",
    "CKV_K8S_35": "the client of object stores reads keys from its environment; clouds use identities instead",
    "CKV_K8S_40": "OpenShift chooses the user of each namespace itself",
    "CKV_K8S_43": "make deploy fills in the digest of the image that was pushed; kind loads it without a registry",
    "CKV_K8S_31": "OpenShift sets the seccomp profile of its pods itself",
    "CKV_SECRET_6": "the token of the rendering: each installation makes one at random",
    "container-image-pull-policy": "as CKV_K8S_15",
    "container-ephemeral-storage-request-and-limit": "decision 14; volumes have a size limit and the root is read-only",
    "container-security-context-user-group-id": "the pod has them for its containers; OpenShift chooses them itself",
    "CKV2_K8S_6": "helm test monitoring asks Prometheus and ends; policies of that namespace are its owner's",
    "pod-probes-identical": "startup, readiness and liveness ask the same page, with 300, 25 and 120 s of patience",
    "pod-networkpolicy": "pods of operators and stores that are not the chart's",
}


def environments() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield what each environment installs: its name, and all objects and pods."""
    for values in sorted((ROOT / "k8s").glob("*/training.yaml")):
        # with the standing cluster as well, and each object in its namespace
        wanted = yaml.safe_load(values.read_text()) | {"cluster": {"enabled": True}}
        found = [each for each in yaml.safe_load_all(render(ROOT / "helm" / "training", wanted, NAMESPACE)) if each]
        monitoring = values.with_name("monitoring.yaml")
        wanted = yaml.safe_load(monitoring.read_text()) if monitoring.exists() else {}
        own = [each for each in yaml.safe_load_all(render(ROOT / "helm" / "monitoring", wanted, "monitoring")) if each]
        for each in own:
            each["metadata"].setdefault("namespace", "monitoring")
        found += own
        if values.parent.name == "kind":
            found += [each for each in yaml.safe_load_all((ROOT / "k8s/kind/object-store.yaml").read_text()) if each]
        for each in found:
            if each["kind"] not in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
                each["metadata"].setdefault("namespace", NAMESPACE)
        yield values.parent.name, [*found, *(pod for each in list(found) for pod in pods_in(each))]


def pods_in(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pods that the operator will make of an object, or of a RayJob in a ConfigMap."""
    if manifest["kind"] == "ConfigMap":
        for name, text in manifest["data"].items():
            if name.startswith("rayjob"):
                yield from pods_in(yaml.safe_load(text))
        return
    if manifest["kind"] not in ("RayJob", "RayCluster"):
        return
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec", spec if manifest["kind"] == "RayCluster" else None)
    made = {"submitter": spec["submitterPodTemplate"]} if "submitterPodTemplate" in spec else {}
    if cluster:
        made["head"] = cluster["headGroupSpec"]["template"]
        made |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    for name, template in made.items():
        metadata = {**template["metadata"], "namespace": NAMESPACE, "name": f"{manifest['kind'].lower()}-{name}"}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def main() -> int:
    """Print what no exception covers; return 1 if there is any, or an exception without use."""
    used: set[str] = set()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, objects in environments():
            file = Path(folder) / f"{name}.yaml"
            file.write_text(yaml.safe_dump_all(objects))
            found = {*kube_score(file), *checkov(file)}
            used |= {rule for rule, _ in found}
            for rule, what in sorted(each for each in found if each[0] not in EXCEPTIONS):
                wrong += 1
                print(f"{name}: {rule}: {what}")
            print(f"{name}: {len(objects)} objects, {len(found)} findings")
    for rule in sorted(EXCEPTIONS.keys() - used):
        wrong += 1
        print(f"{rule}: nothing needs this exception; remove it from tools/audit.py")
    return 1 if wrong else 0


def kube_score(file: Path) -> Iterator[tuple[str, str]]:
    """Yield rule and object of what kube-score calls critical."""
    done = subprocess.run(  # noqa: S603 # our own build, and a file of ours
        [KUBE_SCORE, "score", "--output-format", "json", file], capture_output=True, text=True, check=False
    )
    for each in json.loads(done.stdout):
        for check in each["checks"]:
            if check["grade"] == 1 and not check["skipped"]:
                yield check["check"]["id"], each["object_name"]


def checkov(file: Path) -> Iterator[tuple[str, str]]:
    """Yield rule and object of what checkov says has failed."""
    command = [CHECKOV, "--file", file, "--framework", "kubernetes", "secrets", "--output", "json", "--quiet"]
    done = subprocess.run(  # noqa: S603 # as above
        [*command, "--skip-download"], capture_output=True, text=True, check=False
    )
    reports = json.loads(done.stdout)
    for report in reports if isinstance(reports, list) else [reports]:
        for each in report.get("results", {}).get("failed_checks", []):
            yield each["check_id"], f"{each['resource']}: {each['check_name']}"


if __name__ == "__main__":
    sys.exit(main())
