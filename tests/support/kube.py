"""kubectl for the tests: objects as plain data, waiting for a condition, and what leads into the cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from trainer.storage import store as stores

ROOT = Path(__file__).parent.parent.parent
KEEP = os.environ.get("KEEP_CLUSTER") == "1"  # while working on a test: the cluster is used as it is, and stays
CLUSTER = os.environ.get("KIND_CLUSTER", "fashion-mnist-test")  # not the one of `make deploy`: its runs are a user's
CONTEXT = f"kind-{CLUSTER}"
IMAGE = os.environ.get("IMAGE", "fashion-mnist-on-ray:0.1.0")
RAY_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080, "agent": 52365}
RAY_PORTS |= {"autoscaler metrics": 44217, "dashboard metrics": 44227}

Found = TypeVar("Found")


def long_but(names: Iterable[str], *kept: str) -> list[Any]:
    """Parameters of a test that takes a minute for each: all but those kept are left out where time is short."""
    return [pytest.param(each, marks=() if each in kept else pytest.mark.long) for each in names]


def make(*arguments: str, yes: str = "1", code: int = 0, seconds: float = 1800) -> str:
    """Run a Makefile target against the test cluster, expect its exit code, and give its output."""
    environment = {**os.environ, "KIND_CLUSTER": CLUSTER, "YES": yes}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def kubectl(*arguments: str, namespace: str = "training", stdin: str | None = None, check: bool = True) -> str:
    """Run kubectl; its output."""
    command = ["kubectl", "--context", CONTEXT, "--namespace", namespace, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
    if check:
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def get(kind: str, name: str | None = None, namespace: str = "training", selector: str = "") -> Any:
    """An object, or None if there is none of that name; without a name all of a kind that have the labels."""
    if name is not None:
        found = kubectl("get", kind, name, "--ignore-not-found", "-o", "json", namespace=namespace)
        return json.loads(found or "null")
    return json.loads(kubectl("get", kind, "-l", selector, "-o", "json", namespace=namespace))["items"]


def pods(selector: str) -> list[dict[str, Any]]:
    """Pods in the training namespace that have the labels and are not on their way out."""
    return [pod for pod in get("pods", selector=selector) if "deletionTimestamp" not in pod["metadata"]]


def name_of(thing: dict[str, Any]) -> str:
    """An object's name."""
    return str(thing["metadata"]["name"])


def wait_for(what: str, found: Callable[[], Found | None], seconds: float, every: float = 1.0) -> Found:
    """The first true value of `found`; says what the cluster looks like if there is none in time."""
    until = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > until:
            pytest.fail(f"{what}: not within {seconds:.0f} s.\n{state()}")
        time.sleep(every)
    return value


def state() -> str:
    """Pods, jobs and the last events, to read when a test failed."""
    shown = kubectl("get", "rayjobs,rayclusters,pods", "-o", "wide", check=False)
    return shown + "\n".join(kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).splitlines()[-25:])


def job_ended(name: str) -> dict[str, Any] | None:
    """The RayJob if it is over for good."""
    job = get("rayjob", name)
    return job if job and job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed") else None


def manifest(name: str, kind: str = "rayjob.yaml", **arguments: str) -> dict[str, Any]:
    """A RayJob as the chart's ConfigMap has it, under another name and with more arguments for the trainer."""
    text = get("configmap", "training-rayjob")["data"][kind]
    job: dict[str, Any] = json.loads(kubectl("create", "--dry-run=client", "-o", "json", "-f", "-", stdin=text))
    job["metadata"]["name"] = name
    given = "".join(f" --{option.replace('_', '-')} {value}" for option, value in arguments.items())
    job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace("--name fashion-mnist", f"--name {name}") + given
    return job


def apply(thing: dict[str, Any]) -> None:
    """kubectl apply."""
    kubectl("apply", "-f", "-", stdin=json.dumps(thing))


def forget(store: str, run: str) -> None:
    """Remove what an earlier session on the same cluster left of a run: its job and its record."""
    kubectl("delete", "rayjob", run, "--ignore-not-found")
    for file in stores.files(stores.join(store, run)):
        stores.delete(stores.join(store, run, file))


def kubeconfig_of(account: str, folder: Path) -> Path:
    """A kubeconfig with the token of a service account."""
    token = kubectl("create", "token", account).strip()
    everything = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    everything["users"] = [{"name": everything["users"][0]["name"], "user": {"token": token}}]
    file = folder / "kubeconfig"
    file.write_text(json.dumps(everything))
    return file


def secret(name: str, key: str) -> str:
    """The value of a Secret's key."""
    return b64decode(get("secret", name)["data"][key]).decode()


@contextmanager
def forwarded(service: str, port: int, namespace: str) -> Iterator[int]:
    """A port of this machine that leads to a service's, also to the pod that takes the place of one that went."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = probe.getsockname()[1]
    one = f"kubectl --context {CONTEXT} -n {namespace} port-forward service/{service} {local}:{port}"
    tunnel = subprocess.Popen(
        ["bash", "-c", f"while :; do {one}; sleep 0.5; done"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"port-forward to {service}", lambda: _answers(local), 30, every=0.2)
        yield local
    finally:
        os.killpg(tunnel.pid, signal.SIGTERM)
        tunnel.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def open_ports(pod: str, address: str, namespace: str = "training", container: str | None = None) -> set[str]:
    """Ray's ports at an address that a pod gets a connection to, all tried at once."""
    chosen = ["-c", container] if container else []
    knock = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/'$port 2> /dev/null && echo $port"
    script = f"for port in {' '.join(map(str, RAY_PORTS.values()))}; do ({knock}) & done; wait; echo done"
    answer = kubectl("exec", pod, *chosen, "--", "bash", "-c", script, namespace=namespace).split()
    assert answer[-1] == "done", answer
    return {name for name, port in RAY_PORTS.items() if str(port) in answer}


def objects() -> set[str]:
    """Name and kind of everything in the cluster but what Kubernetes itself makes and renews all the time."""
    passing = ("events", "leases", "endpoints", "endpointslices", "componentstatuses", "controllerrevisions")
    kinds = [
        kind
        for kind in kubectl("api-resources", "--verbs=list", "-o", "name").split()
        if kind.split(".")[0] not in passing and "metrics.k8s.io" not in kind
    ]
    found = kubectl("get", ",".join(kinds), "--all-namespaces", "-o", "json", "--ignore-not-found")
    return {
        f"{thing['kind']} {thing['metadata'].get('namespace', '')}/{name_of(thing)}"
        for thing in json.loads(found)["items"]
    }
