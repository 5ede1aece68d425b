"""`helm test` of both charts: the pods, and what the one of `monitoring` says of a Prometheus that lacks something."""

import copy
import json
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from support.charts import ROOT, clusters, one, render, values_of
from support.pod_security import violations

CHECK = ROOT / "helm" / "monitoring" / "check.py"
HEAD, WORKER = (f"podMonitor/monitoring/monitoring-{part}" for part in ("head", "worker"))
TARGET = {"scrapePool": f"{HEAD}/0", "health": "up", "labels": {"pod": "tea", "namespace": "a", "endpoint": "metrics"}}
GOOD = {
    "scrape_pools": {"scrapePools": [f"{HEAD}/0", f"{HEAD}/1", f"{WORKER}/0", "podMonitor/monitoring/other-head/0"]},
    "targets": {"activeTargets": [TARGET, {**TARGET, "scrapePool": "podMonitor/x/y/0", "health": "down"}]},
    "rules": {"groups": [{"name": "training.run", "rules": [{"name": "TrainingStalled", "health": "ok"}]}]},
    "query": {"result": [{"metric": {"namespace": "a", "run": "tea"}, "value": [0, "1"]}]},
}


class FakePrometheus(BaseHTTPRequestHandler):
    """Gives the server's `answers`, by path."""

    def do_GET(self):
        """Answer as the HTTP API does."""
        self.server.asked.append(self.path)
        data = self.server.answers.get(urllib.parse.urlsplit(self.path).path.removeprefix("/api/v1/"))
        self.send_response(200 if data else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "success", "data": data}).encode())

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def prometheus():
    """A server whose answers a test can change."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakePrometheus)
    server.answers, server.asked = copy.deepcopy(GOOD), []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def check(server, *more):
    """Exit code and output of the check that the pod runs."""
    url = f"http://127.0.0.1:{server.server_port}"
    arguments = [f"--monitor={HEAD}", f"--monitor={WORKER}", "--group=training.run", "--operator", *more]
    command = [sys.executable, "-c", CHECK.read_text(), url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.server
def test_the_check_is_content_with_a_prometheus_that_reads_all(prometheus):
    code, said = check(prometheus)
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == ["ok"] * 5
    assert "targets: 1 answer" in said
    assert "runs within a day: a/tea" in said
    assert any("ray_trainer_step" in path for path in prometheus.asked)


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "answer", "problem", "fix"),
    [
        ("scrape_pools", {"scrapePools": [f"{HEAD}/0"]}, WORKER, "podMonitorSelector"),
        (
            "targets",
            {"activeTargets": [{**TARGET, "health": "down", "lastError": "context deadline exceeded"}]},
            "pod tea in namespace a, port metrics: context deadline exceeded",
            "network.prometheus",
        ),
        ("rules", {"groups": [{"name": "other", "rules": []}]}, "training.run", "ruleSelector"),
        (
            "rules",
            {"groups": [{"name": "training.run", "rules": [{"name": "X", "health": "err", "lastError": "bad"}]}]},
            "X fails: bad",
            "version",
        ),
        ("query", {"result": []}, "no metrics of the KubeRay operator", "metrics.serviceMonitor.enabled"),
        ("rules", None, "does not answer", "tests.prometheusUrl"),
    ],
    ids=["monitor", "target", "no-rules", "rule", "operator", "unreachable"],
)
def test_the_check_names_what_is_wrong_and_the_fix(path, answer, problem, fix, prometheus):
    prometheus.answers[path] = answer
    code, said = check(prometheus)
    assert code == 1
    (wrong,) = [line for line in said.splitlines() if line.startswith("wrong")]
    assert problem in wrong.split(" → ")[0]
    assert fix in wrong.split(" → ")[1]


@pytest.mark.server
def test_the_check_tries_again_until_prometheus_has_read_its_monitors(prometheus, monkeypatch):
    # its pause is left out: what it waits for is the second answer
    late = dict(prometheus.answers)
    prometheus.answers["scrape_pools"] = {"scrapePools": ["none"]}
    code = CHECK.read_text().replace("time.sleep(EVERY_S)", "urllib.request.urlopen(given.url + '/again', timeout=9)")
    real = FakePrometheus.do_GET

    def do_get(self):
        if self.path == "/again":
            self.server.answers = {**late, "/again": {"x": 1}}
        real(self)

    monkeypatch.setattr(FakePrometheus, "do_GET", do_get)
    url = f"http://127.0.0.1:{prometheus.server_port}"
    command = [sys.executable, "-c", code, url, f"--monitor={HEAD}", "--seconds=60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", ["training", "monitoring"])
def test_the_pod_of_a_test_is_restricted_and_no_part_of_the_release(chart):
    for values in (values_of("kind") if chart == "training" else {}, values_of_kitchen_sink(chart)):
        pod = one(render(values, chart), "Pod", "-test")
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert violations(pod["spec"]) == []
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def values_of_kitchen_sink(chart):
    """The values with every key set."""
    return yaml.safe_load((ROOT / "tests" / "charts" / "kitchen-sink" / f"{chart}.yaml").read_text())


@pytest.mark.parametrize("place", ["kind", "aks", "openshift", "kitchen-sink"])
def test_the_doctor_has_what_a_head_has_but_for_its_size(place):
    manifests = render(values_of(place))
    pod = one(manifests, "Pod", "-test")
    head = clusters(manifests)[0]["headGroupSpec"]["template"]
    labels = {key: value for key, value in head["metadata"]["labels"].items() if key != "trainer/cluster"}
    assert pod["metadata"]["labels"] == labels
    for key in ("serviceAccountName", "securityContext"):
        assert pod["spec"][key] == head["spec"][key]
    mine, its = pod["spec"]["containers"][0], head["spec"]["containers"][0]
    assert (mine["image"], mine.get("envFrom")) == (its["image"], its.get("envFrom"))
    its_env = {
        name: value
        for name, value in env_of(its).items()
        if (not name.startswith("TRAINER_") or "STORAGE" in name) and "DRAIN" not in name
    }
    assert its_env.items() <= env_of(mine).items()
    assert mine["command"] == ["python", "-m", "trainer", "doctor"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert volumes == {volume["name"] for volume in head["spec"]["volumes"]} - {"config", "podinfo", "api-token"}


def env_of(container):
    """The plain variables of a container."""
    return {variable["name"]: variable.get("value") for variable in container["env"] if "value" in variable}


def test_the_pod_asks_for_what_the_values_install():
    values = {"alerts": {"disabled": ["KubeRayAbsent", "KubeRayReconcileErrors"]}}
    arguments = one(render(values, "monitoring"), "Pod", "-test")["spec"]["containers"][0]["args"][1:]
    assert arguments[0] == "http://prometheus-operated.monitoring:9090"
    assert [f"--monitor={HEAD}", f"--monitor={WORKER}"] == [each for each in arguments if "--monitor" in each]
    made = [m for m in render(values, "monitoring") if m["kind"] == "PrometheusRule"]
    assert {f"--group={m['spec']['groups'][0]['name']}" for m in made} == {a for a in arguments if "--group" in a}
    assert "--operator" not in arguments
    bare = one(render({"alerts": {"enabled": False}}, "monitoring"), "Pod", "-test")["spec"]["containers"][0]["args"]
    assert not [each for each in bare[1:] if each.startswith(("--group", "--operator"))]


def test_the_pod_runs_the_file_that_is_tested_here():
    script = one(render({}, "monitoring"), "Pod", "-test")["spec"]["containers"][0]["args"][0]
    assert script.strip() == CHECK.read_text().strip()
