"""What an API server's refusals mean. Its words here were copied from a Kubernetes 1.36 API server."""

import json
import subprocess
import sys

import pytest

from trainer.cluster import api
from trainer.errors import ClusterError, ConflictError, ExitCode, LostConnectionError, ResourceError

WHERE = "training of kind"
RIGHTS = (
    'rayjobs.ray.io is forbidden: User "ann" cannot create resource "rayjobs" in API group "ray.io" in the namespace '
    '"training"'
)
QUOTA = (
    'rayjobs.ray.io "r1" is forbidden: exceeded quota: training, requested: count/rayjobs.ray.io=1, used: 1, limited: 1'
)
WEBHOOK = 'admission webhook "validate.kyverno.svc-fail" denied the request: labels are missing'
OLD = (
    'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: unknown field '
    '"spec.preRunningDeadlineSeconds"'
)


@pytest.mark.parametrize(
    ("status", "message", "kind", "parts"),
    [
        (401, "Unauthorized", ClusterError, ["does not accept these credentials", "log in again"]),
        (403, RIGHTS, ClusterError, ["ann may not create rayjobs in training of kind", "access.subjects"]),
        (403, QUOTA, ResourceError, ["count/rayjobs.ray.io=1", "have the quota raised"]),
        (400, WEBHOOK, ClusterError, ["admission", "labels are missing"]),
        (400, OLD, ClusterError, ["spec.preRunningDeadlineSeconds", "definitions are older"]),
        (409, 'rayjobs.ray.io "r1" already exists', ConflictError, ["already exists"]),
        (422, "spec.entrypoint: Invalid value", ClusterError, ["422", "spec.entrypoint"]),
        (503, "apiserver is shutting down", LostConnectionError, ["503", "try again"]),
        (429, "too many requests", LostConnectionError, ["429"]),
    ],
)
def test_a_refusal_names_the_object_the_reason_and_the_remedy(status, message, kind, parts):
    error = api.refusal(status, message, WHERE)
    assert type(error) is kind or (kind is ConflictError and isinstance(error, kind))
    assert [part for part in parts if part not in str(error)] == [], str(error)


def test_a_connection_that_ends_within_tls_is_lost_and_a_certificate_of_another_is_refused():
    lost = api.broken_off("SSLError [SSL: UNEXPECTED_EOF_WHILE_READING] EOF", WHERE)
    assert isinstance(lost, LostConnectionError)
    other = api.broken_off("SSLError [SSL: CERTIFICATE_VERIFY_FAILED] self-signed", WHERE)
    assert not isinstance(other, LostConnectionError)
    assert "kubeconfig" in str(other)


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch):
    """A kubeconfig with one context, whose API server is not there."""
    user, place = {"name": "ann", "user": {"token": "t"}}, {"server": "http://127.0.0.1:9"}
    context = {"name": "here", "context": {"cluster": "here", "user": "ann", "namespace": "team"}}
    content = {"current-context": "here", "contexts": [context], "users": [user]}
    file = tmp_path / "config"
    file.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", **content, "clusters": [{"name": "here", "cluster": place}]})
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    return file


def trainer(*arguments, **environment):
    command = [sys.executable, "-m", "trainer", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment or None)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", [["submit", "--name", "r1"], ["status", "r1"], ["stop", "r1"], ["list"]])
def test_an_api_server_that_does_not_answer_is_said_at_once(kubeconfig, command):
    code, text = trainer(*command, KUBECONFIG=str(kubeconfig), PATH="", HOME="/nowhere", COLUMNS="500")
    assert code == ExitCode.CLUSTER, text
    assert "the API server of here at http://127.0.0.1:9 is unreachable (Connection refused)" in " ".join(text.split())


def test_a_context_that_is_not_there_is_refused_with_those_that_are(kubeconfig):
    with pytest.raises(ClusterError, match="nowhere is not in the kubeconfig, which has here"):
        api.Cluster("nowhere")


def test_without_a_kubeconfig_it_is_said_how_to_give_one(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="set KUBECONFIG, or name a context"):
        api.Cluster()


def test_the_namespace_is_the_one_given_else_the_contexts(kubeconfig):
    assert api.Cluster().namespace == "team"
    assert api.Cluster("here", "other").namespace == "other"


def test_training_does_not_load_the_kubernetes_client():
    code = "import sys, trainer.cli.main, trainer.driver.launch; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
