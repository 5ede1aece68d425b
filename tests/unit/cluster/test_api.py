"""What an API server's refusals mean, and what the client asks of it. Messages are those of Kubernetes 1.36."""

import json
import subprocess
import sys
from contextlib import suppress

import kubernetes.client
import pytest
from support.fake_kube import FakeKube, rayjob

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
POLICY = (
    "rayjobs.ray.io \"r1\" is invalid: : ValidatingAdmissionPolicy 'training-training-submit' with binding "
    "'training-training-submit' denied request: image: only trainer:1; make runs with trainer submit"
)
OLD = (
    'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: unknown field '
    '"spec.preRunningDeadlineSeconds"'
)


@pytest.mark.parametrize(
    ("status", "message", "kind", "parts"),
    [
        (401, "Unauthorized", ClusterError, ["does not accept these credentials", "log in again"]),
        (403, RIGHTS, api.ForbiddenError, ["ann may not create rayjobs in training of kind", "access.subjects"]),
        (403, QUOTA, ResourceError, ["count/rayjobs.ray.io=1", "have the quota raised"]),
        (400, WEBHOOK, ClusterError, ["admission", "labels are missing"]),
        (422, POLICY, ClusterError, ["admission: training", "image: only trainer:1", "policy above"]),
        (400, OLD, ClusterError, ["spec.preRunningDeadlineSeconds", "CRDs are older"]),
        (409, 'rayjobs.ray.io "r1" already exists', ConflictError, ["already exists"]),
        (422, "spec.entrypoint: Invalid value", ClusterError, ["422", "spec.entrypoint"]),
        (503, "apiserver is shutting down", LostConnectionError, ["503", "try again"]),
        (429, "too many requests", LostConnectionError, ["429"]),
    ],
)
def test_a_refusal_names_the_object_the_reason_and_the_fix(status, message, kind, parts):
    error = api.refusal(status, message, WHERE)
    assert type(error) is kind or (kind is ConflictError and isinstance(error, kind))
    assert [part for part in parts if part not in str(error)] == [], str(error)


def test_broken_tls_is_a_lost_connection_unless_it_is_untrusted():
    lost = api.broken_tls("SSLError [SSL: UNEXPECTED_EOF_WHILE_READING] EOF", WHERE)
    assert isinstance(lost, LostConnectionError)
    other = api.broken_tls("SSLError [SSL: CERTIFICATE_VERIFY_FAILED] self-signed", WHERE)
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


@pytest.mark.server
@pytest.mark.parametrize(
    "command", [["submit", "--name", "r1"], ["status", "r1"], ["stop", "r1"], ["list"], ["logs", "r1"]]
)
def test_an_unreachable_api_server_is_reported_at_once(kubeconfig, command):
    code, text = trainer(*command, KUBECONFIG=str(kubeconfig), PATH="", HOME="/nowhere", COLUMNS="500")
    assert code == ExitCode.CLUSTER, text
    assert "the API server of here at http://127.0.0.1:9 is unreachable (Connection refused)" in " ".join(text.split())


def test_the_namespace_is_the_given_one_or_the_contexts(kubeconfig):
    assert api.KubeClient().namespace == "team"
    assert api.KubeClient("here", "other").namespace == "other"


@pytest.mark.server
def test_training_does_not_load_the_kubernetes_client():
    code = "import sys, trainer.cli.main, trainer.driver.launch; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


class Answer:
    """An answer of the API server."""

    def __init__(self, content):
        self.headers = {"Date": "Tue, 24 Nov 2026 15:00:00 GMT"}
        self.data = content if isinstance(content, bytes) else json.dumps(content).encode()


class FakeApi:
    """Answers every call of the Kubernetes client, and keeps each as verb, group and resource."""

    def __init__(self, calls):
        self._calls = calls

    def __getattr__(self, name):
        def call(*arguments, **options):
            self._calls.add(right_of(name, arguments))
            return Answer({"items": [], "metadata": {"name": "r1-rayjob"}, "status": {"allowed": True}})

        return call


def right_of(call, arguments):
    """The right that a call of the Kubernetes client needs."""
    verb, _, rest = call.partition("_")
    if "custom_object" in rest:
        return verb, arguments[0], arguments[3]
    resources = {
        "namespaced_config_map": "configmaps",
        "namespaced_pod": "pods",
        "namespaced_pod_log": "pods/log",
        "namespaced_event": "events",
        "config_map_for_all_namespaces": "configmaps of all namespaces",
        "node": "nodes",
        "self_subject_access_review": "anybody may",
    }
    return {"read": "get"}.get(verb, verb), "", resources[rest]


ARGUMENTS = {
    "find_namespace": [],
    "job_templates": [],
    "train_settings": ["training"],
    "rayjob": ["r1"],
    "rayjobs": [],
    "raycluster": ["r1-x"],
    "create_rayjob": [rayjob()],
    "patch_rayjob": ["r1", {}],
    "annotate_rayjob": ["r1", {}],
    "delete_rayjob": [rayjob()],
    "pods": [],
    "events": [],
    "nodes": [],
    "pod_log": ["r1-abc", "ray-job-submitter"],
    "is_allowed": ["get", "", "pods/log"],
}


def methods(kind):
    return {name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def test_the_rights_cover_every_call_of_the_client(kubeconfig, monkeypatch):
    calls = set()
    for kind in ("CoreV1Api", "CustomObjectsApi", "AuthorizationV1Api"):
        monkeypatch.setattr(kubernetes.client, kind, lambda _: FakeApi(calls))
    kube = api.KubeClient()
    assert methods(api.KubeClient) == set(ARGUMENTS)  # a new method needs arguments here
    for name, arguments in ARGUMENTS.items():
        with suppress(ClusterError):  # there are no job templates
            getattr(kube, name)(*arguments)
    calls -= {("create", "", "anybody may")}
    assert calls == set(api.RIGHTS) | set(api.OPTIONAL_RIGHTS)
    assert len(api.RIGHTS) == len(set(api.RIGHTS))


def test_the_stand_in_of_the_tests_has_every_method_of_the_client():
    assert methods(FakeKube) >= methods(api.KubeClient)


def client_with(monkeypatch, answer):
    """A client each of whose calls gives an answer, or raises."""

    class Api:
        def __getattr__(self, name):
            def call(*arguments, **options):
                self.__class__.asked.append((name, arguments, options))
                if isinstance(answer, Exception):
                    raise answer
                return Answer(answer)

            return call

    Api.asked = []
    for kind in ("CoreV1Api", "CustomObjectsApi", "AuthorizationV1Api"):
        monkeypatch.setattr(kubernetes.client, kind, lambda _: Api())
    return api.KubeClient(), Api.asked


def api_error(status, message=""):
    error = kubernetes.client.ApiException(status=status)
    error.body = json.dumps({"message": message})
    return error


def test_what_is_not_found_is_none(kubeconfig, monkeypatch):
    kube, _ = client_with(monkeypatch, api_error(404))
    assert kube.rayjob("r1") is None
    assert kube.raycluster("r1-x") is None
    assert kube.rayjobs() == []
    assert kube.pods() == []
    assert kube.train_settings("training") == ""
    assert kube.pod_log("r1-abc", "c") == ""
    assert kube.delete_rayjob(rayjob()) is False
    with pytest.raises(ClusterError, match="does not know rayjobs"):
        kube.create_rayjob(rayjob())


def test_nodes_that_may_not_be_listed_are_unknown(kubeconfig, monkeypatch):
    kube, _ = client_with(monkeypatch, api_error(403, RIGHTS))
    assert kube.nodes() is None
    kube, _ = client_with(monkeypatch, api_error(503))
    with pytest.raises(LostConnectionError):
        kube.nodes()


def test_another_rayjob_of_the_name_is_not_deleted(kubeconfig, monkeypatch):
    kube, asked = client_with(monkeypatch, api_error(409, "Precondition failed"))
    assert kube.delete_rayjob(rayjob(uid="7")) is False
    assert asked[0][2]["body"]["preconditions"] == {"uid": "7"}


def test_a_container_that_has_not_started_has_an_empty_log(kubeconfig, monkeypatch):
    kube, _ = client_with(monkeypatch, api_error(400, 'container "c" in pod "p" is waiting to start'))
    assert kube.pod_log("p", "c") == ""


def test_a_log_is_text_whatever_its_bytes_are(kubeconfig, monkeypatch):
    kube, asked = client_with(monkeypatch, b"caf\xe9")
    assert kube.pod_log("p", "c", since_s=0) == "caf\ufffd"
    assert asked[0][2]["since_seconds"] == 1
    assert asked[0][2]["timestamps"] is True


@pytest.mark.parametrize(
    ("names", "words"), [([], "has no release"), (["a-rayjob", "b-rayjob"], r"more than one.*a, b")]
)
def test_one_release_of_the_chart_is_needed(kubeconfig, monkeypatch, names, words):
    kube, _ = client_with(monkeypatch, {"items": [{"metadata": {"name": name}, "data": {}} for name in names]})
    with pytest.raises(ClusterError, match=words):
        kube.job_templates()


def test_the_release_is_named_after_its_config_map(kubeconfig, monkeypatch):
    kube, _ = client_with(monkeypatch, {"items": [{"metadata": {"name": "team-a-rayjob"}, "data": {"k": "v"}}]})
    assert kube.job_templates() == ("team-a", {"k": "v"})


def with_releases(monkeypatch, own, everywhere, namespace=None):
    """A client of a cluster with releases of the chart in namespaces: names, or an error that the API server gives."""

    class Api:
        def __getattr__(self, name):
            def call(*arguments, **options):
                answer = own if name == "list_namespaced_config_map" else everywhere
                if isinstance(answer, Exception):
                    raise answer
                return Answer({"items": [{"metadata": {"name": "t-rayjob", "namespace": each}} for each in answer]})

            return call

    monkeypatch.setattr(kubernetes.client, "CoreV1Api", lambda _: Api())
    return api.KubeClient(namespace=namespace)


FORBIDDEN = api_error(403, 'User "ann" cannot list resource "configmaps" in API group "" in the namespace "team"')


@pytest.mark.parametrize("own", [[], FORBIDDEN], ids=["empty", "forbidden"])
def test_the_one_namespace_with_the_chart_is_found_and_said(kubeconfig, monkeypatch, own):
    kube = with_releases(monkeypatch, own, ["training", "training"])
    assert kube.find_namespace() == "Namespace training of here, the only one with a release of helm/training."
    assert kube.namespace == "training"


def test_a_namespace_that_was_named_or_has_the_chart_stays(kubeconfig, monkeypatch):
    kube = with_releases(monkeypatch, ["team"], ["team", "training"])
    assert (kube.find_namespace(), kube.namespace) == ("", "team")
    kube = with_releases(monkeypatch, [], ["training"], namespace="named")
    assert (kube.find_namespace(), kube.namespace) == ("", "named")


def test_without_the_chart_anywhere_the_contexts_namespace_stays(kubeconfig, monkeypatch):
    kube = with_releases(monkeypatch, [], [])
    assert (kube.find_namespace(), kube.namespace) == ("", "team")


def test_of_several_namespaces_with_the_chart_one_must_be_named(kubeconfig, monkeypatch):
    with pytest.raises(ClusterError, match=r"team of here has no release.*; a, b have one; name one.*--namespace a"):
        with_releases(monkeypatch, [], ["b", "a"]).find_namespace()


@pytest.mark.parametrize("own", [[], FORBIDDEN], ids=["empty", "forbidden"])
def test_who_may_not_look_elsewhere_must_name_the_namespace(kubeconfig, monkeypatch, own):
    with pytest.raises(ClusterError, match=r"team of here .* you may not look into others; .*--namespace"):
        with_releases(monkeypatch, own, FORBIDDEN).find_namespace()


def test_an_outage_is_not_taken_for_a_missing_right(kubeconfig, monkeypatch):
    with pytest.raises(LostConnectionError):
        with_releases(monkeypatch, [], api_error(503)).find_namespace()


def test_the_clusters_clock_is_known_after_an_answer(kubeconfig, monkeypatch):
    kube, _ = client_with(monkeypatch, {"items": []})
    monkeypatch.setattr(api.time, "time", lambda: 1_795_532_390.0)  # ten seconds before the answer's Date
    kube.pods()
    assert kube.clock_ahead_s == pytest.approx(10.0)
    assert kube.now == pytest.approx(1_795_532_400.0)


@pytest.mark.parametrize("answer", [True, False])
def test_a_right_is_what_the_api_server_says(kubeconfig, monkeypatch, answer):
    kube, asked = client_with(monkeypatch, {"status": {"allowed": answer}})
    assert kube.is_allowed("get", "", "pods/log") is answer
    attributes = asked[0][1][0]["spec"]["resourceAttributes"]
    assert (attributes["resource"], attributes["subresource"], attributes["namespace"]) == ("pods", "log", "team")


def test_a_dry_run_creates_nothing(kubeconfig, monkeypatch):
    kube, asked = client_with(monkeypatch, rayjob())
    kube.create_rayjob(rayjob(), dry_run=True)
    kube.create_rayjob(rayjob())
    assert [options.get("dry_run") for _, _, options in asked] == ["All", None]
