"""`make deploy`: from no cluster to ready, and again over what is there."""

import json
import subprocess

import pytest
import yaml
from support.kube import ROOT, get, kubectl, make, name_of, secret

pytestmark = pytest.mark.ci

VALUES = [
    *((chart, path) for chart in ("training", "monitoring") for path in sorted(ROOT.glob(f"k8s/*/{chart}.yaml"))),
    *((path.stem, path) for path in sorted(ROOT.glob("tests/charts/kitchen-sink/*.yaml"))),
]


def test_deploy_ends_ready_and_says_what_to_do_next(deployed):
    assert "ready. Next:" in deployed
    assert "kubectl --context kind-fashion-mnist-test apply -f k8s/rayjob.yaml" in deployed


def test_prometheus_reads_the_monitors_once_the_deploy_is_ready(deployed, prometheus):
    # before that it takes up to three minutes, in which a run would not be seen
    monitors = {f"podMonitor/monitoring/{name_of(each)}/0" for each in get("podmonitors", namespace="monitoring")}
    assert monitors
    assert sorted(monitors - prometheus.jobs()) == []


def test_deploying_again_changes_no_secret(deployed):
    names = [("training-token", "auth_token"), ("object-store", "AWS_SECRET_ACCESS_KEY")]
    before = [secret(name, key) for name, key in names]
    make("install-charts", "wait-ready")
    assert [secret(name, key) for name, key in names] == before


def test_the_namespace_of_runs_enforces_restricted_pod_security(deployed):
    labels = get("namespace", "training")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_key_of_the_object_store_is_shown(deployed):
    assert secret("object-store", "AWS_SECRET_ACCESS_KEY") not in deployed
    assert secret("training-token", "auth_token") not in deployed


@pytest.mark.parametrize(("chart", "values"), VALUES, ids=lambda each: getattr(each, "parent", ROOT).name)
def test_the_api_server_takes_every_object_that_these_values_make(deployed, chart, values):
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    command = ["helm", "template", chart, f"helm/{chart}", "--namespace", "training", "--values", str(values)]
    command += ["--kube-version", version]
    if "openshift" in values.parts:  # this cluster refuses the pod of helm test without what OpenShift puts into pods
        command += ["--no-hooks"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    made = made.replace('namespace: "grafana"', 'namespace: "training"')  # there is none on this cluster
    kubectl("apply", "--dry-run=server", "--filename=-", stdin=made)
    jobs = [text for thing in yaml.safe_load_all(made) if thing for text in jobs_in(thing)]
    assert bool(jobs) == (chart == "training")
    for job in jobs:
        kubectl(
            "create", "--dry-run=server", "--filename=-", stdin=job.replace("name: fashion-mnist", "name: other", 1)
        )


def jobs_in(thing):
    """The RayJobs that a ConfigMap holds."""
    if thing["kind"] == "ConfigMap" and thing["metadata"]["name"].endswith("-rayjob"):
        return list(thing["data"].values())
    return []
