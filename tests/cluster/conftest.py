"""One kind cluster for all tests of this folder, made by `make deploy`, and the run of k8s/rayjob.yaml on it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import kube
from support.kube import CLUSTER, KEEP, ROOT, forwarded, get, job_ended, kubectl, make, name_of, objects, pods, wait_for

from trainer.storage import bucket as buckets
from trainer.storage.mirror import open_record
from trainer.storage.record import Record

RUN = "fashion-mnist"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run deploy first and uninstall last."""
    order = ["test_deploy", "test_access", "test_network", "test_rayjob", "test_standing", "test_gpus", "test_losses"]
    order += [
        "test_submit",
        "test_record",
        "test_upgrade",
        "test_clouds",
        "test_doctor",
        "test_dashboards",
        "test_alerts",
        "test_uninstall",
    ]
    # dashboards after all runs, and before the alerts, whose tests take the cluster apart
    items.sort(key=lambda item: order.index(Path(str(item.fspath)).stem))


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Skip nothing silently: end if a tool that the tests start is missing."""
    missing = [tool for tool in ("docker", "kind", "kubectl", "helm") if not shutil.which(tool)]
    if missing:
        pytest.exit(f"The cluster tests need {', '.join(missing)}: install them, or run make test without these.", 2)


@pytest.fixture(scope="session")
def before(tools: None) -> Iterator[set[str]]:
    """Every object of the new cluster, before anything is deployed."""
    if not KEEP:
        make("kind-delete")
    make("kind-create")
    yield settled()
    if not KEEP:
        make("kind-delete")
        assert CLUSTER not in subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True).stdout.split()


def settled() -> set[str]:
    """Every object of a new cluster, when Kubernetes has made all that belongs to it: of late nodes it comes late."""
    ready = ("--all", "--for=condition=Ready", "--timeout=180s")
    kubectl("wait", "nodes", *ready)
    for namespace in ("kube-system", "local-path-storage"):
        kubectl("wait", "pods", *ready, namespace=namespace)
    seen: list[set[str]] = []

    def the_same_twice() -> set[str] | None:
        seen.append(objects())
        return seen[-1] if seen[-2:] == [seen[-1]] * 2 else None

    return wait_for("nothing new is made", the_same_twice, 120, every=3)


@pytest.fixture(scope="session")
def deployed(before: set[str]) -> str:
    """What `make deploy` printed."""
    return make("deploy")


@pytest.fixture(scope="session")
def store(deployed: str) -> Iterator[str]:
    """The cluster's object store, reachable from here: the URI where runs are kept."""
    with forwarded("object-store", 7070, "training") as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_REGION", "us-east-1")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, kube.secret("object-store", key))
        buckets.client.cache_clear()
        yield "s3://runs"
        buckets.client.cache_clear()


class Prometheus:
    """The cluster's, at a port of this machine. Answers are values by the label ``run``."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"
        self._api = f"{self.url}/api/v1"

    def now(self, query: str) -> dict[str, float]:
        """What a query gives at this moment."""
        found = self._get("query", query=query)["result"]
        return {each["metric"].get("run", ""): float(each["value"][1]) for each in found}

    def ever(self, query: str) -> dict[str, list[float]]:
        """All that a query gave in the last hour, oldest first."""
        now = time.time()
        found = self._get("query_range", query=query, start=now - 3600, end=now, step=1)["result"]
        return {each["metric"].get("run", ""): [float(value) for _, value in each["values"]] for each in found}

    def jobs(self) -> set[str]:
        """Names of the scrape jobs of the configuration that is in force."""
        return set(re.findall(r"job_name: (\S+)", self._get("status/config")["yaml"]))

    def alert_waits(self, name: str) -> float | None:
        """The seconds that an alert's condition must hold before it fires, if Prometheus knows the alert."""
        return next((rule["duration"] for rule in self._rules() if rule["name"] == name), None)

    def broken_rules(self) -> dict[str, str]:
        """What is wrong with the rules that it fails to evaluate, by name."""
        return {rule["name"]: rule.get("lastError", "") for rule in self._rules() if rule["health"] == "err"}

    def _rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: Any) -> Any:
        with urllib.request.urlopen(f"{self._api}/{what}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="session")
def prometheus(deployed: str) -> Iterator[Prometheus]:
    """Prometheus, from here."""
    with forwarded("prometheus-operated", 9090, "monitoring") as port:
        yield Prometheus(port)


@dataclass
class Seen:
    """What was to be seen of the run while it trained, and the job when it was over."""

    job: dict[str, Any] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)  # of all processes, by pod
    open_ports: dict[str, set[str]] = field(default_factory=dict)  # by who knocked
    answers: dict[str, int] = field(default_factory=dict)  # of the dashboard
    record: Record | None = None


@pytest.fixture(scope="session")
def run(deployed: str, store: str, prometheus: Prometheus) -> Seen:
    """The run of ``kubectl apply -f k8s/rayjob.yaml``, watched from beginning to end."""
    seen = Seen()
    kube.forget(store, RUN)
    neighbours()
    kubectl("apply", "-f", str(ROOT / "k8s" / "rayjob.yaml"))
    cluster = wait_for("a Ray cluster", lambda: (get("rayjob", RUN).get("status") or {}).get("rayClusterName"), 60)
    wait_for("the run trains", lambda: job_ended(RUN) or prometheus.now(f'ray_trainer_workers{{run="{RUN}"}}'), 300)
    look_into(seen)
    (head,) = pods(f"ray.io/cluster={cluster},app.kubernetes.io/component=head")
    knock(seen, head)
    seen.job = wait_for("the run ends", lambda: look_into(seen) or job_ended(RUN), 600, every=5)
    seen.record = open_record(f"{store}/{RUN}")
    return seen


def neighbours() -> None:
    """Pods that belong to nothing, one in the namespace of the runs and one in another."""
    for namespace in ("training", "default"):
        security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {"name": "neighbour", "image": kube.IMAGE, "imagePullPolicy": "Never", "securityContext": security}
        container["command"] = ["sleep", "infinity"]
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
        spec["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbour"}, "spec": spec}
        kubectl("apply", "-f", "-", stdin=json.dumps(pod), namespace=namespace)
    for namespace in ("training", "default"):
        kubectl("wait", "--for=condition=Ready", "pod/neighbour", "--timeout=120s", namespace=namespace)


def knock(seen: Seen, head: dict[str, Any]) -> None:
    """Try every port of the head from next door and from inside, and the dashboard without and with the token."""
    address = head["status"]["podIP"]
    for namespace in ("training", "default"):
        seen.open_ports[f"{namespace}/neighbour"] = kube.open_ports("neighbour", address, namespace)
    seen.open_ports["head"] = kube.open_ports(name_of(head), address, container="ray-head")
    ask = (
        "import os, sys, urllib.request as r, urllib.error as e\n"
        "q = r.Request('http://localhost:8265/api/jobs/')\n"
        "if sys.argv[1] == 'token': q.add_header('Authorization', 'Bearer ' + os.environ['RAY_AUTH_TOKEN'])\n"
        "try: print(r.urlopen(q, timeout=10).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    for how in ("nothing", "token"):
        answer = kubectl("exec", name_of(head), "-c", "ray-head", "--", "python", "-c", ask, how)
        seen.answers[how] = int(answer)


def look_into(seen: Seen) -> None:
    """Pods of the run as they are now, their logs, and the command lines of all their processes."""
    for pod in get("pods", selector="app.kubernetes.io/instance=training"):
        name, first = name_of(pod), pod["spec"]["containers"][0]["name"]
        seen.pods[name] = pod
        for container in pod["spec"]["containers"]:
            log = kubectl("logs", name, "-c", container["name"], check=False)
            seen.logs[f"{name}/{container['name']}"] = log or seen.logs.get(f"{name}/{container['name']}", "")
        if pod["status"]["phase"] == "Running":
            arguments = "cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' '"
            files = "cat /tmp/ray/session_latest/logs/*.* 2> /dev/null"
            seen.commands[name] = seen.commands.get(name, "") + inside(name, first, arguments)
            seen.logs[f"{name}/session"] = inside(name, first, files)


def inside(pod: str, container: str, script: str) -> str:
    """What a script prints in a container; nothing if that is gone meanwhile."""
    return kubectl("exec", pod, "-c", container, "--", "bash", "-c", script, check=False)


@pytest.fixture
def nobody(deployed: str, tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of a service account that may do nothing."""
    kubectl("create", "serviceaccount", "nobody")
    yield kube.kubeconfig_of("nobody", tmp_path)
    kubectl("delete", "serviceaccount", "nobody")
