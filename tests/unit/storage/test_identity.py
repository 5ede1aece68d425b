"""The identities of pods, with fakes of the clouds' token servers: given, refreshed, refused, and not answered."""

import os
from collections import namedtuple

import pytest
from obstore.exceptions import GenericError
from support.identity_servers import (
    DENIALS,
    GOOGLE_ACCOUNT,
    ROLE,
    SUBJECT,
    fake_cloud,
    make_certificates,
    pod_environment,
)
from support.object_store import s3_server

from trainer.errors import OutageError, StorageError
from trainer.storage import bucket as buckets
from trainer.storage import identity, store
from trainer.storage.store_errors import sentences

pytestmark = pytest.mark.server

KINDS = ("gke", "pod-identity", "irsa", "azure")
URIS = {"gke": "gs://bucket", "pod-identity": "s3://bucket", "irsa": "s3://bucket", "azure": "az://bucket"}
OF_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "GCE_", "SSL_CERT", "HTTP_", "HTTPS_", "ALL_", "NO_PROXY", "KUBERNETES_")
Pod = namedtuple("Pod", ["uri", "cloud", "store"])


@pytest.fixture
def environment(monkeypatch):
    """An environment that names no cloud."""
    for name in [name for name in os.environ if name.upper().startswith(OF_CLOUDS)]:
        monkeypatch.delenv(name)
    buckets.client.cache_clear()
    yield monkeypatch
    buckets.client.cache_clear()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def pod(request, environment, tmp_path, certificates):
    """A pod with one kind of identity, the fake of its token server, and one that plays its store."""
    authority, certificate, key = certificates
    # the client speaks to STS by TLS alone
    tls = (certificate, key) if request.param == "irsa" else ()
    with fake_cloud(*tls) as cloud, fake_cloud() as plain:
        for name, value in pod_environment(request.param, cloud.url, plain.url, tmp_path).items():
            environment.setenv(name, value)
        if tls:
            environment.setenv("SSL_CERT_FILE", str(authority))
        yield Pod(URIS[request.param], cloud, plain)


each_kind = pytest.mark.parametrize("pod", KINDS, indirect=True)


def read(pod):
    with sentences(f"{pod.uri}/x", "read"):
        return buckets.Bucket(pod.uri, 1).read("x")


def refusal(pod):
    with pytest.raises(StorageError) as caught:
        read(pod)
    return caught.value


@each_kind
def test_a_token_is_fetched_once_and_used_in_requests(pod):
    assert [read(pod), read(pod)] == [b"content", b"content"]
    assert (pod.cloud.tokens, pod.store.used) == (1, ["token-1", "token-1"])


@each_kind
def test_a_token_that_is_about_to_expire_is_fetched_again(pod):
    pod.cloud.expires_in_s = 1
    for _ in range(1000):  # the client keeps any token for 100 ms
        assert read(pod) == b"content"
        if pod.cloud.tokens > 1:
            break
    assert pod.store.used[-1] == f"token-{pod.cloud.tokens}" != "token-1"


@pytest.mark.parametrize(("pod", "kind"), [(kind, kind) for kind in KINDS], indirect=["pod"], ids=KINDS)
def test_a_denied_token_is_refused_at_once_with_the_clouds_words_and_the_step(pod, kind):
    status, body, words = DENIALS[kind]
    pod.cloud.deny(status, body)
    found = refusal(pod)
    assert not isinstance(found, OutageError)
    assert f"the token server at {pod.cloud.url} refuses this identity ({status}: " in found.problem
    assert words in found.problem
    step = {
        "gke": "bind this pod's service account to a Google service account",
        "pod-identity": "bind service account training/training-head to a role",
        "irsa": f"bind service account training/training-head to {ROLE}",
        "azure": "bind service account training/training-head to client-1",
    }[kind]
    assert found.fix.startswith(step)
    assert pod.store.used == []


@each_kind
@pytest.mark.parametrize("status", [400, 404])
def test_no_refusal_of_a_token_server_is_an_outage(pod, status):
    pod.cloud.deny(status, "no")
    found = refusal(pod)
    assert not isinstance(found, OutageError)
    assert f"({status}: no)" in found.problem


@each_kind
@pytest.mark.parametrize("status", [503])
def test_a_token_server_in_trouble_is_an_outage_and_is_named(pod, status):
    pod.cloud.deny(status, "later")
    found = refusal(pod)
    assert isinstance(found, OutageError)
    assert f"the token server at {pod.cloud.url} answers {status} (later)" in found.problem


@each_kind
def test_a_token_server_that_hangs_is_an_outage_and_is_named(pod):
    pod.cloud.hangs = True
    found = refusal(pod)
    assert isinstance(found, OutageError)
    assert f"the token server at {pod.cloud.url} is unreachable: no answer in time" in found.problem


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_server_that_is_away_is_an_outage_and_is_named(environment, tmp_path, kind):
    away = "https://localhost:9" if kind == "irsa" else "http://localhost:9"
    for name, value in pod_environment(kind, away, "http://localhost:9/store", tmp_path).items():
        environment.setenv(name, value)
    found = refusal(Pod(URIS[kind], None, None))
    assert isinstance(found, OutageError)
    assert f"the token server at {away} is unreachable: connection refused" in found.problem
    assert "store" not in found.problem.replace("storage", "")


@pytest.mark.parametrize("kind", ["pod-identity", "irsa", "azure"])
def test_a_token_file_that_is_missing_is_named(environment, tmp_path, kind):
    for name, value in pod_environment(kind, "https://localhost:9", "http://localhost:9", tmp_path).items():
        environment.setenv(name, value)
    (tmp_path / "token").unlink()
    found = refusal(Pod(URIS[kind], None, None))
    assert not isinstance(found, OutageError)
    assert f"TOKEN_FILE: {tmp_path / 'token'} cannot be read" in found.problem


@pytest.mark.parametrize("pod", ["gke"], indirect=True)
def test_the_words_of_a_token_server_are_cut_and_on_one_line(pod):
    pod.cloud.deny(403, {"error": {"message": "first\nsecond " + "x" * 5000}})
    problem = refusal(pod).problem
    assert "(403: first second xxx" in problem
    assert len(problem) < 400


@pytest.mark.parametrize("pod", ["gke"], indirect=True)
@pytest.mark.parametrize("body", ["[" * 100_000, "7", '{"error": 7}', '{"error": {}}', "", "\x1b[2J"])
def test_words_of_a_token_server_that_make_no_sense_are_shown_as_they_are(pod, body):
    pod.cloud.deny(403, body)
    assert "refuses this identity (403: " in refusal(pod).problem


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        ("pod-identity", "the role of service account training/training-head"),
        ("irsa", f"role {ROLE} by service account training/training-head"),
        ("azure", "client client-1 by service account training/training-head"),
    ],
)
def test_the_identity_names_role_and_service_account(environment, tmp_path, kind, described):
    for name, value in pod_environment(kind, "http://localhost:9", "http://localhost:9", tmp_path).items():
        environment.setenv(name, value)
    assert identity.describe(URIS[kind]) == described
    assert SUBJECT.endswith(identity.service_account(URIS[kind]).replace("/", ":"))


@pytest.mark.parametrize("pod", ["gke"], indirect=True)
def test_the_identity_names_the_google_service_account(pod):
    assert identity.describe(pod.uri) == f"Google service account {GOOGLE_ACCOUNT}"


def test_a_metadata_server_that_does_not_answer_names_nobody(environment):
    environment.setenv("GCE_METADATA_HOST", "localhost:9")
    assert identity.describe("gs://bucket") == "the identity of this machine or pod"


@pytest.mark.parametrize("content", ["", "x", "a.b.c", "e30.e30.x", "e30.W10.x", "\udcff"])
def test_a_token_file_that_is_none_names_nobody(environment, tmp_path, content):
    (tmp_path / "token").write_bytes(content.encode(errors="surrogateescape"))
    environment.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    assert identity.service_account("az://bucket") is None


def test_the_url_of_sts_is_named_by_region_where_none_is_set(environment):
    environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "token")
    environment.setenv("AWS_REGION", "eu-west-1")
    text = "Error performing POST REDACTED in 2s, after 7 retries - HTTP error"
    assert identity.denial(text, "s3://bucket").server == "https://sts.eu-west-1.amazonaws.com"
    assert identity.denial(text, "az://bucket") is None


@pytest.mark.parametrize("uri", ["s3://bucket", "gs://bucket", "az://bucket"])
def test_a_machine_without_credentials_is_no_outage(environment, uri):
    error = GenericError("Error performing GET http://169.254.169.254/latest/api/token in 1s - HTTP error")
    with pytest.raises(StorageError, match="no credentials were found") as caught, sentences(f"{uri}/x", "read"):
        raise error
    assert not isinstance(caught.value, OutageError)


def test_a_role_of_a_service_account_reaches_a_real_s3_server(environment, tmp_path, certificates):
    authority, certificate, key = certificates
    with s3_server() as server, fake_cloud(certificate, key) as sts:
        for name, value in pod_environment("irsa", sts.url, server["AWS_ENDPOINT_URL"], tmp_path).items():
            environment.setenv(name, value)
        environment.setenv("SSL_CERT_FILE", str(authority))
        store.check("s3://runs/by-role")
        assert sts.tokens == 1


@pytest.mark.parametrize(("status", "final"), [(400, True), (401, True), (410, True), (429, False), (500, False)])
def test_only_a_refusal_of_a_token_is_final(status, final):
    request = "Error performing token request: Error performing GET http://x/t in 1s"
    answer = f"Server returned non-2xx status code: {status} X: no"
    found = identity.denial(f"{request} - {answer}", "gs://bucket")
    assert (found.status, found.words, found.is_final) == (status, "no", final)
