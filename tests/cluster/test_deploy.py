"""`make deploy`: from no cluster to ready, and again over what is there."""

import json
import subprocess

import pytest
import yaml
from support import kube
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
    # this cluster refuses the pod of helm test without what OpenShift puts into pods, or with classes that it lacks
    if {"openshift", "kitchen-sink"} & set(values.parts):
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


def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def test_the_image_has_no_program_that_becomes_root_and_nothing_of_the_machine_that_built_it(deployed):
    find = "find / -xdev -type f -perm /6000 2> /dev/null"
    assert docker("run", "--rm", "--entrypoint", "sh", kube.IMAGE, "-c", f"{find} || true") == ""
    base = "python:3.11-slim-bookworm"  # of the Dockerfile
    of_image, of_base = (
        dict(variable.split("=", 1) for variable in json.loads(docker("image", "inspect", image))[0]["Config"]["Env"])
        for image in (kube.IMAGE, base)
    )
    own = {name for name in of_image if of_image[name] != of_base.get(name)}
    settings = {"UV_COMPILE_BYTECODE", "UV_LINK_MODE", "UV_NO_PROGRESS", "UV_PYTHON_DOWNLOADS", "VIRTUAL_ENV"}
    assert own == settings | {"PATH", "HOME", "TRAINER_GIT_COMMIT"}


def test_kinds_image_is_without_cuda_and_half_the_size(deployed):
    size = json.loads(docker("image", "inspect", kube.IMAGE))[0]["Size"]
    assert size < 2.7e9
    there = docker("run", "--rm", "--entrypoint", "sh", kube.IMAGE, "-c", "ls /opt/venv/lib/python3.*/site-packages")
    assert not {"nvidia", "triton"} & set(there.split())
