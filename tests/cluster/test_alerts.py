"""Alerts that are made to fire: each reaches Alertmanager with the labels of its run, and ends. And `helm test`."""

from __future__ import annotations

import json
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import cluster_cli, kube
from support.kube import ROOT, forwarded, get, job_ended, kubectl, name_of, pods, wait_for

from tools import lint_rules
from trainer.storage import checkpoints

RUN, FAILS, PENDING = "alarmed", "alarmed-fails", "alarmed-gpu"
# The same rules, sooner: none of them waits for minutes, and what happened is shown for four instead of sixty. A head
# that is lost must be back within that.
SOON = {
    "alerts": {
        "labels": {"team": "vision"},
        "override": {
            name: {"for": "5s"}
            for name in ("TrainingStalled", "TrainingStorageAway", "TrainingTargetDown", "TrainingUnseen")
        }
        | {"RayNodesPending": {"for": "5s", "severity": "critical"}, "TrainingRestarting": {"for": "1s"}},
        "thresholds": {"recently": "4m", "stalledAfter": "15s", "restarts": 1},
    }
}
HANG = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    title = (process / "cmdline").read_bytes()
    if title.startswith(b"ray::RayTrainWorker"):  # not one of the agents
        os.kill(int(process.name), signal.SIGSTOP)
        print(process.name)
"""


class Alertmanager:
    """The cluster's, at a port of this machine."""

    def __init__(self, port: int):
        self._url = f"http://127.0.0.1:{port}/api/v2/alerts?active=true"

    def find(self, name: str, run: str) -> dict[str, Any] | None:
        """The alert of this name about a run, if it is there."""
        try:
            with urllib.request.urlopen(self._url, timeout=10) as answer:
                alerts = json.load(answer)
        except OSError:  # the way there is made again
            return None
        found = [each for each in alerts if (each["labels"]["alertname"], each["labels"].get("run")) == (name, run)]
        return found[0] if found else None

    def fires(self, name: str, run: str, seconds: float = 240) -> dict[str, str]:
        """The labels of an alert, once it is there; its texts name the run and the way to the runbook."""
        alert = wait_for(f"{name} fires about {run}", lambda: self.find(name, run), seconds)
        assert run in alert["annotations"]["description"]
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert alert["labels"]["team"] == "vision"
        return {key: alert["labels"].get(key, "") for key in ("namespace", "severity")}

    def ends(self, name: str, run: str, seconds: float = 240) -> None:
        """Wait until an alert is over."""
        wait_for(f"{name} about {run} ends", lambda: not self.find(name, run), seconds)


def upgrade(*values: Path) -> None:
    """The chart `monitoring` with kind's values and more."""
    files = [word for file in (ROOT / "k8s" / "kind" / "monitoring.yaml", *values) for word in ("--values", str(file))]
    command = ["helm", "--kube-context", kube.CONTEXT, "--namespace", "monitoring", "upgrade", "monitoring"]
    subprocess.run([*command, str(ROOT / "helm" / "monitoring"), *files], capture_output=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def alertmanager(deployed, prometheus, tmp_path_factory) -> Iterator[Alertmanager]:
    """Alertmanager, once Prometheus has the rules that do not wait for minutes."""
    file = tmp_path_factory.mktemp("alerts") / "soon.yaml"
    file.write_text(yaml.safe_dump(SOON))
    upgrade(file)
    wait_for("Prometheus has read the rules", lambda: prometheus.alert_waits("TrainingStalled") == 5.0, 240)
    with forwarded("alertmanager-operated", 9093, "monitoring") as port:
        yield Alertmanager(port)
    upgrade()


def job(run: str, *arguments: str) -> dict[str, Any]:
    """A RayJob for a run that is not tried again."""
    made = kube.manifest(run)
    made["spec"]["entrypoint"] = shlex.join([*shlex.split(made["spec"]["entrypoint"]), *arguments])
    made["spec"]["backoffLimit"] = 0
    return made


def part(component: str) -> dict[str, Any]:
    """A pod of the run: its head, or a worker."""
    cluster = get("rayjob", RUN)["status"]["rayClusterName"]
    return pods(f"ray.io/cluster={cluster},app.kubernetes.io/component={component}")[0]


@pytest.fixture(scope="module")
def blocked(alertmanager, store) -> Iterator[list[dict[str, str]]]:
    """A run without end. What fires while no network policy lets Prometheus in, which then is undone."""
    kube.forget(store, RUN)
    settings = {"epochs": 2000, "checkpoint.every_s": 5, "report_every_s": 0.5}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    try:
        with cluster_cli.chart("network.prometheus.from[0].podSelector.matchLabels.app=nobody"):
            kube.apply(job(RUN, *options))
            fired = [alertmanager.fires(name, RUN) for name in ("TrainingTargetDown", "TrainingUnseen")]
        yield fired
    finally:
        cluster_cli.remove(RUN)


@pytest.fixture(scope="module")
def trains(blocked, store, prometheus) -> None:
    """The run trains, is seen, and has a checkpoint."""
    wait_for("it is seen", lambda: prometheus.now(f'ray_trainer_step{{run="{RUN}"}}'), 240)
    wait_for("it has a checkpoint", lambda: checkpoints.list_checkpoints(f"{store}/{RUN}").committed, 120)


def test_a_run_that_prometheus_cannot_reach_is_reported_until_it_can(blocked, alertmanager):
    assert blocked == [{"namespace": "training", "severity": "warning"}] * 2
    for name in ("TrainingTargetDown", "TrainingUnseen"):
        alertmanager.ends(name, RUN)


def test_a_lost_head_is_reported_as_a_restart_for_a_while(trains, alertmanager):
    kubectl("delete", "pod", name_of(part("head")), "--grace-period=0", "--force")
    assert alertmanager.fires("TrainingRestarting", RUN) == {"namespace": "training", "severity": "warning"}
    alertmanager.ends("TrainingRestarting", RUN, seconds=330)


def test_a_bucket_that_is_away_is_reported_until_it_is_back(trains, alertmanager):
    kubectl("scale", "deployment/object-store", "--replicas=0")
    try:
        assert alertmanager.fires("TrainingStorageAway", RUN) == {"namespace": "training", "severity": "critical"}
    finally:
        kubectl("scale", "deployment/object-store", "--replicas=1")
    kubectl("rollout", "status", "deployment/object-store", "--timeout=120s")
    alertmanager.ends("TrainingStorageAway", RUN)


def test_a_worker_that_hangs_stalls_the_run_until_it_is_replaced(trains, alertmanager):
    frozen = kubectl("exec", name_of(part("worker")), "-c", "ray-worker", "--", "python", "-c", HANG).split()
    assert len(frozen) == 1
    assert alertmanager.fires("TrainingStalled", RUN) == {"namespace": "training", "severity": "warning"}
    alertmanager.ends("TrainingStalled", RUN)


def test_a_run_that_was_removed_has_no_alert(trains, alertmanager):
    cluster_cli.remove(RUN)
    for name in ("TrainingStalled", "TrainingStorageAway", "TrainingUnseen", "TrainingVanished", "TrainingTargetDown"):
        alertmanager.ends(name, RUN)


def test_a_failed_job_is_reported_and_the_alert_ends_by_itself(alertmanager, store):
    kube.forget(store, FAILS)
    kube.apply(job(FAILS, "--set", "epochs=0"))
    try:
        wait_for("it fails", lambda: job_ended(FAILS), 240)
        assert alertmanager.fires("TrainingJobFailed", FAILS) == {"namespace": "training", "severity": "warning"}
        alertmanager.ends("TrainingJobFailed", FAILS, seconds=330)
        assert get("rayjob", FAILS)["status"]["jobDeploymentStatus"] == "Failed"
    finally:
        cluster_cli.remove(FAILS)


def test_a_gpu_pod_without_a_node_is_reported_until_nobody_waits_for_it(alertmanager, store):
    kube.forget(store, PENDING)
    made = job(PENDING, "--workers", "1", "--gpu")
    for group in made["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        group["replicas"] = 0
    kube.apply(made)
    try:
        assert alertmanager.fires("RayNodesPending", PENDING) == {"namespace": "training", "severity": "critical"}
    finally:
        cluster_cli.remove(PENDING)
    alertmanager.ends("RayNodesPending", PENDING)


def test_prometheus_evaluates_every_rule_without_an_error(alertmanager, prometheus):
    assert prometheus.broken_rules() == {}


def test_what_the_rules_ask_for_was_there_while_the_runs_were(alertmanager, prometheus, tmp_path):
    if not lint_rules.PINT.exists():
        pytest.skip("pint is not built: make pint")
    assert lint_rules.lint(lint_rules.write(tmp_path / "rules.yaml"), prometheus.url) == 0


@pytest.mark.ci
@pytest.mark.parametrize("release", ["training", "monitoring"])
def test_helm_test_finds_the_deployment_as_it_should_be(deployed, release):
    command = ["helm", "--kube-context", kube.CONTEXT, "--namespace", release, "test", release, "--logs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=330, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kubectl("delete", "pod", f"{release}-test", namespace=release)
