"""Errors in the words of the stores: as S3 and Azure document them, since no server here lets a token expire."""

import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from trainer.errors import OutageError, StorageError
from trainer.storage import bucket as buckets
from trainer.storage.store_errors import sentences

pytestmark = pytest.mark.server


def said(error, uri="s3://bucket/r/x"):
    with pytest.raises(StorageError) as caught, sentences(uri, "written"):
        raise error
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        GenericError("Client error with status 400 Bad Request: <Code>ExpiredToken</Code>"),
        PermissionDeniedError("403: Signature not valid in the specified time frame"),
    ],
)
def test_expired_credentials_end_a_run_at_once_and_say_that_it_continues(error):
    found = said(error)
    assert not isinstance(found, OutageError)
    assert "storage: s3://bucket/r/x cannot be written: the credentials have expired" in found.problem
    assert "renew them" in found.fix


def test_a_clock_that_is_wrong_is_told_from_wrong_credentials():
    found = said(PermissionDeniedError("403 Forbidden: <Code>RequestTimeTooSkewed</Code>"))
    assert not isinstance(found, OutageError)
    assert "set this machine's clock" in str(found)


def test_what_nobody_knows_may_pass():
    assert isinstance(said(GenericError("503 Slow Down")), OutageError)


@pytest.fixture
def to_a_server(monkeypatch):
    """What a request to a server here says, by its address; with the environment of a laptop that has keys."""

    def ask(endpoint, **environment):
        given = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
        for name, value in {**given, "AWS_ENDPOINT_URL": endpoint, **environment}.items():
            monkeypatch.setenv(name, value)
        buckets.client.cache_clear()
        with pytest.raises(StorageError) as caught, sentences("s3://runs/x", "read"):
            buckets.Bucket("s3://runs", 1).read("x")
        return caught.value

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    yield ask
    buckets.client.cache_clear()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority that no machine knows, and a certificate of it for localhost."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -out expired.pem -days -1 -extfile names",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def server(certificate=None, key=None):
    """A server that answers every request with an empty object, with TLS if there is a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            for name, value in {
                "Content-Length": "0",
                "ETag": "x",
                "Last-Modified": formatdate(0, usegmt=True),
            }.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate, key)
            serving.socket = tls.wrap_socket(serving.socket, server_side=True)
        serving.handle_error = lambda *_: None  # clients break off here: that is the test
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


@pytest.fixture(scope="module")
def with_tls(certificates):
    with server(certificates / "cert.pem", certificates / "key.pem") as port:
        yield port


def test_a_refused_connection_is_named(to_a_server):
    assert "the store at http://127.0.0.1:9 is unreachable: connection refused" in str(
        to_a_server("http://127.0.0.1:9")
    )


def test_a_host_without_an_address_is_named(to_a_server):
    assert "its host has no address" in str(to_a_server("http://no-such-host.invalid:9000"))


def test_a_server_that_does_not_answer_is_named(to_a_server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer in time" in str(to_a_server(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_an_unknown_authority_is_named_with_the_variable_to_set(to_a_server, with_tls):
    found = to_a_server(f"https://localhost:{with_tls}")
    assert "signed by an authority that this machine does not know; name a file" in str(found)
    assert "SSL_CERT_FILE" in found.fix


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE"])
def test_a_missing_file_of_authorities_is_named(to_a_server, with_tls, variable):
    found = to_a_server(f"https://localhost:{with_tls}", **{variable: "/none.pem"})
    assert found.problem == f"{variable}: /none.pem does not exist"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE"])
def test_an_authority_that_is_named_is_trusted(monkeypatch, to_a_server, with_tls, certificates, variable):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        to_a_server(f"https://localhost:{with_tls}", **{variable: str(certificates / "ca.pem")})


def test_a_certificate_for_another_host_is_named(to_a_server, with_tls, certificates):
    found = to_a_server(f"https://127.0.0.1:{with_tls}", SSL_CERT_FILE=str(certificates / "ca.pem"))
    assert "its certificate is for another host" in str(found)


def test_an_expired_certificate_is_named(to_a_server, certificates):
    with server(certificates / "expired.pem", certificates / "key.pem") as port:
        found = to_a_server(f"https://localhost:{port}", SSL_CERT_FILE=str(certificates / "ca.pem"))
    assert "its certificate has expired" in str(found)


def test_a_server_without_tls_is_named(to_a_server):
    with server() as port:
        assert "it does not speak TLS; write its endpoint as http://" in str(to_a_server(f"https://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("proxy", "reason"), [("http://127.0.0.1:9", "connection refused"), ("http://proxy.invalid:3128", "no address")]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_named_and_not_the_store(to_a_server, scheme, proxy, reason):
    found = to_a_server(f"{scheme}://store.example", **{f"{scheme.upper()}_PROXY": proxy})
    assert f"the proxy {proxy} of {scheme.upper()}_PROXY is unreachable: " in found.problem
    assert reason in found.problem
    assert "NO_PROXY" in found.fix


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "access denied (403 AccessDenied); let this identity read objects there"),
        (403, "SignatureDoesNotMatch", "the store does not accept these keys (403 SignatureDoesNotMatch)"),
        (403, "InvalidAccessKeyId", "the store does not accept these keys (403 InvalidAccessKeyId)"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region (400 Auth"),
        (404, "NoSuchBucket", "the bucket does not exist; create it"),
        (503, "SlowDown", "answers 503 SlowDown"),
    ],
)
def test_an_answer_of_the_store_is_named_with_its_code(status, code, words):
    text = f"Server returned non-2xx status code: {status} X: <Error><Code>{code}</Code></Error>"
    found = said(PermissionDeniedError(text) if status == 403 else GenericError(text))
    assert words.replace("read", "write") in str(found)
    assert isinstance(found, OutageError) == (status == 503)
