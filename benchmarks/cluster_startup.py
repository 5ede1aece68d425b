"""How soon a run trains on the cluster of `make deploy`, and where the time goes.

Two comparisons, by turns in one run:

- a trivial job of two workers: by our job template, and as a plain RayJob is usually written (KubeRay's defaults: its
  own probes, a cluster without autoscaler, no settings of Ray), with the same image
- the run of k8s/rayjob.yaml with one epoch: from `kubectl apply` to the first training step, part by part

``python benchmarks/cluster_startup.py [--rounds N] [--context NAME] [--output FOLDER]``; the cluster is ready and idle.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import machine

RESULTS = Path(__file__).parent.parent / "docs" / "results"
# Two workers that report once; prints when it began.
TRIVIAL = """
import json, time
print(json.dumps({"entry": time.time()}), flush=True)
import ray.train
from ray.train.torch import TorchTrainer
scaling = ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})
run = ray.train.RunConfig(storage_path="/tmp/trivial")
TorchTrainer(lambda: ray.train.report({"loss": 0.0}), scaling_config=scaling, run_config=run).fit()
"""
PARTS = ("operator", "head pod", "Ray on the head", "submitter", "driver", "controller and workers", "imports", "data")


class Cluster:
    """kubectl for one context."""

    def __init__(self, context: str):
        self.context = context

    def kubectl(self, *arguments: str, namespace: str = "training", stdin: str | None = None) -> str:
        """Run it; its output."""
        command = ["kubectl", "--context", self.context, "--namespace", namespace, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def get(self, *what: str, namespace: str = "training") -> Any:
        """An object, or a list of them."""
        return json.loads(self.kubectl("get", *what, "-o", "json", namespace=namespace))

    def run(self, job: dict[str, Any], namespace: str) -> tuple[float, float]:
        """Apply a job and wait for its success: when that was begun, and when it was seen."""
        name = job["metadata"]["name"]
        began = time.time()
        self.kubectl("apply", "-f", "-", namespace=namespace, stdin=json.dumps(job))
        while True:
            status = self.get("rayjob", name, namespace=namespace).get("status", {})
            if status.get("jobStatus") == "SUCCEEDED":
                return began, time.time()
            if status.get("jobStatus") == "FAILED" or status.get("jobDeploymentStatus") == "Failed":
                raise SystemExit(f"Error: RayJob {name} failed: {status.get('message')}; look at its log.")
            time.sleep(0.5)

    def remove(self, name: str, namespace: str) -> None:
        """Delete a job, and wait until none of its pods is left to use the processor: without their grace periods."""
        self.kubectl("delete", "rayjob", name, namespace=namespace)
        everything = ["--selector", "ray.io/cluster", "--force", "--grace-period=0"]
        self.kubectl("delete", "pods", *everything, namespace=namespace)
        while self._pods_of_runs(namespace):
            time.sleep(0.5)

    def _pods_of_runs(self, namespace: str) -> list[Any]:
        pods = self.get("pods", namespace=namespace)["items"]
        return [pod for pod in pods if {"ray.io/cluster", "job-name"} & set(pod["metadata"].get("labels", {}))]


def seconds(stamp: str) -> float:
    """A Kubernetes time as seconds since 1970."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def plain(image: str, entrypoint: str) -> dict[str, Any]:
    """A RayJob with nothing but what it cannot do without."""
    resources = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "3Gi"}}

    def template(name: str) -> dict[str, Any]:
        container = {"name": name, "image": image, "imagePullPolicy": "Never", "resources": resources}
        return {"spec": {"containers": [container]}}

    workers = {"groupName": "cpu", "replicas": 2, "minReplicas": 2, "maxReplicas": 2, "rayStartParams": {}}
    head = {"rayStartParams": {"num-cpus": "0"}, "template": template("ray-head")}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "plain"},
        "spec": {
            "entrypoint": entrypoint,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "rayVersion": "2.60.0",
                "headGroupSpec": head,
                "workerGroupSpecs": [{**workers, "template": template("ray-worker")}],
            },
        },
    }


def ours(cluster: Cluster, name: str, entrypoint: str) -> dict[str, Any]:
    """The job of the chart's ConfigMap."""
    text = cluster.get("configmap", "training-rayjob")["data"]["rayjob.yaml"]
    job: dict[str, Any] = json.loads(cluster.kubectl("create", "--dry-run=client", "-o", "json", "-f", "-", stdin=text))
    job["metadata"]["name"] = name
    job["spec"]["entrypoint"] = entrypoint or job["spec"]["entrypoint"].replace(
        "--name fashion-mnist", f"--name {name}"
    )
    return job


def trivial(cluster: Cluster, job: dict[str, Any], namespace: str) -> dict[str, float]:
    """Seconds from apply to the entry point and to the end of a trivial job."""
    began, ended = cluster.run(job, namespace)
    name = job["metadata"]["name"]
    log = cluster.kubectl("logs", f"job/{name}", namespace=namespace)
    entry = next(json.loads(line)["entry"] for line in log.splitlines() if line.startswith('{"entry"'))
    cluster.remove(name, namespace)
    return {"entry point": entry - began, "end": ended - began}


def parts(cluster: Cluster, number: int) -> dict[str, float]:
    """Seconds of each part from apply to the first step of a real run, and of the whole."""
    name = f"startup-{int(time.time())}-{number}"
    job = ours(cluster, name, "")
    job["spec"]["entrypoint"] += " --set epochs=1"
    began, ended = cluster.run(job, "training")
    status = cluster.get("rayjob", name)["status"]
    selector = f"ray.io/cluster={status['rayClusterName']},app.kubernetes.io/component=head"
    (head,) = cluster.get("pods", "-l", selector)["items"]
    container = next(each for each in head["status"]["containerStatuses"] if each["name"] == "ray-head")
    ready = next(each for each in head["status"]["conditions"] if each["type"] == "Ready")
    lines = cluster.kubectl("logs", f"job/{name}").splitlines()
    events = {each["event"]: each for each in (json.loads(line) for line in lines if line.startswith("{"))}
    started, run = events["training_started"], events["run_started"]
    marks = [
        began,
        seconds(head["metadata"]["creationTimestamp"]),
        seconds(container["state"]["running"]["startedAt"]),
        seconds(ready["lastTransitionTime"]),
        run["process_created"],
        run["time"],
        started["processes_began_at"],
        started["entered_at"],
        started["started_at"],
    ]
    cluster.remove(name, "training")
    found = {part: marks[i + 1] - marks[i] for i, part in enumerate(PARTS)}
    return {**found, "first step": started["started_at"] - began, "end": ended - began}


def main() -> int:
    """Measure and write it down."""
    parser = argparse.ArgumentParser(description="How soon a run trains on a cluster, and where the time goes.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", default="kind-fashion-mnist")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: docs/results")
    options = parser.parse_args()
    cluster = Cluster(options.context)
    image = ours(cluster, "x", "x")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    coded = base64.b64encode(TRIVIAL.encode()).decode()
    entrypoint = f"""python -c "import base64; exec(base64.b64decode('{coded}'))" """.strip()
    result: dict[str, Any] = {"machine": machine.describe(), "context": options.context, "rounds": []}
    for number in range(1, options.rounds + 1):
        sides = {
            "plain": lambda: trivial(cluster, plain(image, entrypoint), "default"),
            "ours": lambda: trivial(cluster, ours(cluster, "trivial", entrypoint), "training"),
            "run": lambda number=number: parts(cluster, number),
        }
        measured = {}
        for side in list(sides) if number % 2 else reversed(list(sides)):
            measured[side] = {key: round(value, 2) for key, value in sides[side]().items()}
            print(f"round {number}  {side}  {measured[side]}", flush=True)
        result["rounds"].append(measured)
        write(options.output, result)
    return 0


def write(folder: Path, result: dict[str, Any]) -> None:
    """cluster-startup.json and .md."""
    (folder / "cluster-startup.json").write_text(json.dumps(result, indent=1) + "\n")
    rounds, host = result["rounds"], result["machine"]

    def row(label: str, values: list[float], form: str = ".1f") -> str:
        return f"| {label} | {statistics.median(values):{form}} | {min(values):{form}} – {max(values):{form}} |"

    compared = []
    for key in ("entry point", "end"):
        compared.append(row(f"{key}, a plain RayJob", [each["plain"][key] for each in rounds]))
        compared.append(row(f"{key}, our template", [each["ours"][key] for each in rounds]))
        compared.append(row(f"{key}, plain / ours", [each["plain"][key] / each["ours"][key] for each in rounds], ".2f"))
    page = PAGE.format(
        rounds=len(rounds),
        hardware=f"{host['cpu']}, {host['cores']} cores",
        versions=f"Ray {host['ray']}, PyTorch {host['torch']}, commit {host['git_commit']}",
        compared="\n".join(compared),
        parts="\n".join(row(part, [each["run"][part] for each in rounds]) for part in (*PARTS, "first step", "end")),
    )
    (folder / "cluster-startup.md").write_text(page)


PAGE = """\
# From `kubectl apply` to the first training step

`python benchmarks/cluster_startup.py --rounds {rounds}` on a kind cluster with the image in its nodes; {hardware} for
all nodes together; {versions}. {rounds} rounds by turns. Kubernetes' own times are whole seconds.

| a trivial job of two workers, seconds after apply | median | range |
|---|---|---|
{compared}

| the run of k8s/rayjob.yaml, one epoch, seconds | median | range |
|---|---|---|
{parts}

- **operator**: apply → the head's pod exists. **head pod**: → its container runs. **Ray on the head**: → it is ready.
- **submitter**: → the driver's process exists: the submitter's pod, and Ray's job client in it.
- **driver**: its imports and checks, to its first event.
- **controller and workers**: Ray Train's controller, the autoscaler, the worker pods, to the last worker process.
- **imports**: PyTorch and the process group in the workers, to the loop's first line.
- **data**: loading it and building the model, to the first step.
"""


if __name__ == "__main__":
    sys.exit(main())
