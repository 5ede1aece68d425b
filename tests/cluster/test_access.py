"""access.restrict: a submitter's RayJob makes the chart's pods, and no others."""

import copy
import json
import subprocess

import pytest
from support import cluster_cli, kube
from support.cluster_cli import trainer
from support.kube import get, kubectl

from trainer.cluster import rayjob
from trainer.errors import ExitCode

pytestmark = pytest.mark.ci

ANN = "system:serviceaccount:training:ann"  # may submit, and nothing else
SECRET = {"name": "loot", "secret": {"secretName": "training-token"}}
TOKEN = {"name": "api-token", "mountPath": "/token"}
FROM_SECRET = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "training-token", "key": "auth_token"}}}
API_TOKEN = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}


@pytest.fixture(scope="module")
def restricted(deployed):
    """The chart's RayJob, where Ann may submit and RayJobs are restricted."""
    kubectl("create", "serviceaccount", "ann")
    subject = ["kind=ServiceAccount", "name=ann", "namespace=training"]
    settings = [f"access.subjects[0].{each}" for each in subject] + ["access.restrict=true"]
    with cluster_cli.chart(*settings):
        template = get("configmap", "training-rayjob")["data"]["rayjob.yaml"]
        # the policy is in force some moments after it was made
        kube.wait_for("the policy refuses", lambda: refusal(hostile()), 60)
        yield rayjob.load(template)
    kubectl("delete", "serviceaccount", "ann")


def hostile() -> dict:
    """A RayJob whose submitter mounts the token, takes the store's keys, acts as the head and runs any image."""
    container = {"name": "ray-job-submitter", "image": "elsewhere.example/any", "command": ["sh", "-c", "env"]}
    container["envFrom"] = [{"secretRef": {"name": "object-store"}}]
    submitter = {"restartPolicy": "Never", "serviceAccountName": "training-head", "containers": [container]}
    head = {"spec": {"containers": [{"name": "ray-head", "image": "elsewhere.example/any"}]}}
    cluster = {"rayVersion": "2.60.0", "headGroupSpec": {"rayStartParams": {}, "template": head}}
    spec = {"entrypoint": "true", "submitterPodTemplate": {"spec": {**submitter, "volumes": [SECRET]}}}
    metadata = {"name": "loot", "namespace": "training"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {**spec, "rayClusterSpec": cluster},
    }


def refusal(thing: dict) -> str:
    """What the policy says to an object that Ann makes, or nothing if it is taken."""
    return said("create", "-f", "-", stdin=json.dumps(thing))


def refusal_of_patch(name: str, spec: dict) -> str:
    """What it says when she gives a RayJob that is there another spec."""
    return said(
        "patch", "rayjob", name, "--type=json", "-p", json.dumps([{"op": "replace", "path": "/spec", "value": spec}])
    )


def said(*arguments: str, stdin: str | None = None) -> str:
    command = ["kubectl", "--context", kube.CONTEXT, "-n", "training", "--dry-run=server", "--as", ANN, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "ValidatingAdmissionPolicy" in done.stderr, done.stderr
    return done.stderr.partition("denied request: ")[2]


def spec(job: dict) -> dict:
    return job["spec"]["rayClusterSpec"]


def head(job: dict) -> dict:
    return spec(job)["headGroupSpec"]["template"]


def worker(job: dict) -> dict:
    return spec(job)["workerGroupSpecs"][0]["template"]


def submitter(job: dict) -> dict:
    return job["spec"]["submitterPodTemplate"]


def containers(template: dict) -> list:
    return template["spec"]["containers"]


# What a hostile submitter changes in a good RayJob, and what the refusal must name.
CHANGES = {
    "another image": (lambda job: containers(worker(job))[0].update(image="elsewhere.example/any"), "image: only"),
    "another image to begin with": (
        lambda job: worker(job)["spec"]["initContainers"][0].update(image="elsewhere.example/any"),
        "image: only",
    ),
    "no image": (lambda job: containers(head(job))[0].pop("image"), "image: only"),
    "a second container": (
        lambda job: containers(submitter(job)).append({"name": "more", "image": "elsewhere.example/any"}),
        "image: only",
    ),
    "a volume of a Secret": (lambda job: worker(job)["spec"]["volumes"].append(SECRET), "volumes: only"),
    "another ConfigMap": (
        lambda job: head(job)["spec"]["volumes"].append({"name": "x", "configMap": {"name": "theirs"}}),
        "volumes: only",
    ),
    "a claim": (
        lambda job: submitter(job)["spec"]["volumes"].append(
            {"name": "x", "persistentVolumeClaim": {"claimName": "theirs"}}
        ),
        "volumes: only",
    ),
    "a token of the cluster": (
        lambda job: worker(job)["spec"]["volumes"].append({"name": "api-token", **API_TOKEN}),
        "api-token is for the autoscaler",
    ),
    "the autoscaler's token": (
        lambda job: containers(head(job))[0]["volumeMounts"].append(TOKEN),
        "api-token is for the autoscaler",
    ),
    "a token by automount": (
        lambda job: worker(job)["spec"].update(automountServiceAccountToken=True),
        "serviceAccountName: the account of workers",
    ),
    "the head's account": (
        lambda job: submitter(job)["spec"].update(serviceAccountName="training-head"),
        "serviceAccountName: the account of submitters",
    ),
    "no account": (
        lambda job: head(job)["spec"].pop("serviceAccountName"),
        "serviceAccountName: the account of heads",
    ),
    "a variable of a Secret": (lambda job: containers(worker(job))[0]["env"].append(FROM_SECRET), "env: no value from"),
    "all of a Secret": (
        lambda job: containers(submitter(job))[0].update(envFrom=[{"secretRef": {"name": "training-token"}}]),
        "envFrom: only the Secret object-store",
    ),
    "the node's network": (lambda job: worker(job)["spec"].update(hostNetwork=True), "hostNetwork"),
    "one node": (lambda job: worker(job)["spec"].update(nodeName="fashion-mnist-control-plane"), "nodeName"),
    "another priority": (
        lambda job: head(job)["spec"].update(priorityClassName="system-node-critical"),
        "priorityClassName",
    ),
    "no labels for the network policies": (
        lambda job: worker(job)["metadata"].pop("labels"),
        "labels: those of workers",
    ),
    "labels of another part": (
        lambda job: submitter(job)["metadata"]["labels"].update({"app.kubernetes.io/component": "head"}),
        "labels: those of submitters",
    ),
    "no submitter of the chart": (lambda job: job["spec"].pop("submitterPodTemplate"), "spec.submitterPodTemplate"),
    "a sidecar that submits": (lambda job: job["spec"].update(submissionMode="SidecarMode"), "submissionMode"),
    "another cluster": (
        lambda job: (
            job["spec"].pop("rayClusterSpec"),
            job["spec"].update(clusterSelector={"ray.io/cluster": "theirs"}),
        ),
        "spec.clusterSelector: only",
    ),
    "no token for Ray": (lambda job: spec(job).pop("authOptions"), "authOptions"),
    "another Secret as Ray's token": (
        lambda job: spec(job)["authOptions"].update(secretName="theirs"),
        "authOptions",
    ),
    "another autoscaler": (
        lambda job: spec(job)["autoscalerOptions"].update(image="elsewhere.example/any"),
        "autoscalerOptions",
    ),
    "code for the autoscaler": (
        lambda job: spec(job)["autoscalerOptions"]["env"].append({"name": "PYTHONPATH", "value": "/tmp"}),
        "autoscalerOptions",
    ),
    "a Secret for the autoscaler": (
        lambda job: spec(job)["autoscalerOptions"].update(envFrom=[{"secretRef": {"name": "object-store"}}]),
        "autoscalerOptions",
    ),
    "a way in from outside": (
        lambda job: spec(job)["headGroupSpec"].update(serviceType="LoadBalancer"),
        "service beyond the cluster",
    ),
    "a password of a Secret": (
        lambda job: spec(job).update(gcsFaultToleranceOptions={"redisAddress": "redis:6379"}),
        "gcsFaultToleranceOptions",
    ),
}


def test_the_charts_own_rayjob_is_let_through(restricted):
    assert refusal(restricted) == ""


def test_a_hostile_rayjob_is_refused(restricted):
    assert refusal(hostile())


@pytest.fixture(scope="module")
def suspended(restricted):
    """A good RayJob that is there and runs nothing, by name."""

    def make(name: str, job: dict) -> dict:
        job = copy.deepcopy(job)
        job["metadata"]["name"], job["spec"]["suspend"] = name, True
        kubectl("apply", "-f", "-", stdin=json.dumps(job))  # by an administrator, who can create pods anyway
        return get("rayjob", name)

    yield make
    kubectl("delete", "rayjob", "kept", "old", "--ignore-not-found")


@pytest.fixture(scope="module")
def kept(restricted, suspended):
    """The chart's RayJob as it is in the cluster, named kept."""
    return suspended("kept", restricted)


@pytest.mark.parametrize("change", CHANGES)
def test_one_hostile_change_is_refused_when_made_and_when_patched(restricted, kept, change):
    make, named = CHANGES[change]
    job, patched = copy.deepcopy(restricted), copy.deepcopy(kept)
    make(job)
    assert named in refusal(job)
    make(patched)
    assert named in refusal_of_patch("kept", patched["spec"])


def test_a_run_that_the_values_before_let_through_can_be_stopped(restricted, suspended):
    old = copy.deepcopy(restricted)
    containers(head(old))[0]["image"] = "fashion-mnist-on-ray:0.0.9"
    old = suspended("old", old)
    old["spec"]["suspend"] = False
    assert refusal_of_patch("old", old["spec"]) == ""
    containers(head(old))[0]["image"] = "elsewhere.example/any"
    assert "image: only" in refusal_of_patch("old", old["spec"])


def test_a_submitter_may_make_no_pod_ray_cluster_or_service_and_read_no_secret(restricted):
    for verb, kind in [("create", "pods"), ("create", "rayclusters"), ("create", "rayservices"), ("get", "secrets")]:
        command = ["kubectl", "--context", kube.CONTEXT, "-n", "training", "auth", "can-i", verb, kind, "--as", ANN]
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "no", (verb, kind)


def test_a_restricted_submitter_trains_a_run_and_a_refusal_is_said_in_a_sentence(restricted, tmp_path, store):
    ann = kube.kubeconfig_of("ann", tmp_path)
    kube.forget(store, "restricted")
    cluster_cli.remove("restricted")
    code, command = trainer("submit", "--name", "restricted", "--set", "epochs=1", "--workers", "1", kubeconfig=ann)
    assert code == 0, command.text
    cluster_cli.remove("restricted")

    # a chart that was changed by hand, so that what it makes is not what is let through
    template = get("configmap", "training-rayjob")
    text = template["data"]["rayjob.yaml"]
    template["data"]["rayjob.yaml"] = text.replace(kube.IMAGE, "elsewhere.example/any:1")
    kubectl("replace", "-f", "-", stdin=json.dumps(template))
    try:
        code, command = trainer("submit", "--name", "refused", kubeconfig=ann)
    finally:
        template = get("configmap", "training-rayjob")
        template["data"]["rayjob.yaml"] = text
        kubectl("replace", "-f", "-", stdin=json.dumps(template))
    assert code == ExitCode.CLUSTER
    assert "admission: training of" in command.text
    assert f"image: only {kube.IMAGE}" in command.text
