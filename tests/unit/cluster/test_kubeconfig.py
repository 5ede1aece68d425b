"""Kubeconfigs as people have them: merged, half written, outdated, with plugins. Real files, and a real TLS server."""

import base64
import datetime
import http.server
import json
import logging
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trainer.cluster import api, kubeconfig
from trainer.errors import ClusterError, ExitCode, LostConnectionError

SERVER = "http://127.0.0.1:9"  # nothing listens there
CREDENTIAL = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t1"}}


@pytest.fixture(autouse=True)
def on_a_laptop(monkeypatch, tmp_path):
    """No pod, no proxy, and the file `config` as the kubeconfig."""
    for name in ("KUBERNETES_SERVICE_HOST", *(n for n in os.environ if n.lower().endswith("_proxy"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def nothing_is_said_beside_the_error(caplog, capfd):
    """The client library writes to the log and to stderr; people are to see the sentence alone."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""


def entry(kind, name="here", **content):
    """An entry of a kubeconfig."""
    return {"name": name, kind: content}


def written(path, user=None, cluster=None, **other):
    """A kubeconfig with the context `here` in a file."""
    content = {
        "current-context": "here",
        "contexts": [entry("context", cluster="here", user="ann")],
        "clusters": [entry("cluster", **{"server": SERVER, **(cluster or {})})],
        "users": [entry("user", "ann", **({"token": "t"} if user is None else user))],
        **other,
    }
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def plugin(path, script, **more):
    """A user whose credentials come from a plugin: a shell script in a file."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"exec": {"command": str(path), "apiVersion": CREDENTIAL["apiVersion"], **more}}


def said(kind=ClusterError, context=None):
    """Return the error of using the kubeconfig, as the command prints it."""
    with pytest.raises(kind) as refused:
        api.KubeClient(context).rayjob("r1")
    assert type(refused.value) is kind
    assert refused.value.exit_code == ExitCode.CLUSTER
    assert refused.value.fix
    return str(refused.value)


def has(sentence, *parts):
    """Check that a sentence has parts."""
    assert [part for part in parts if part not in sentence] == [], sentence


# ---- the files -------------------------------------------------------------------------------------------------------


def test_without_a_kubeconfig_the_error_says_where_to_set_it(tmp_path):
    assert said(api.NoKubeconfigError) == (
        f"kubeconfig: there is none at {tmp_path}/config; set KUBECONFIG to the file that names the cluster."
    )


@pytest.mark.parametrize("content", ["", "apiVersion: v1\nkind: Config\n", "contexts: []\n", "a: b"])
def test_an_empty_kubeconfig_is_the_same_as_none(tmp_path, content):
    (tmp_path / "config").write_text(content)  # as `kind delete cluster` leaves it
    has(said(api.NoKubeconfigError), f"kubeconfig: {tmp_path}/config names no cluster; set KUBECONFIG")


def test_a_named_context_needs_a_kubeconfig(tmp_path):
    has(said(context="kind"), f"kubeconfig: there is none at {tmp_path}/config, so no context kind; ")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"token: secret\nkey: [\n", "is not YAML (line 3, column 1)"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"a: !!python/name:os.system\n", "is not YAML (line 1"),
        (b"- 1\n", "is not a kubeconfig"),
        (b"just words\n", "is not a kubeconfig"),
        (b"contexts: {a: 1}\n", "contexts of "),
        (b"contexts: [{context: {cluster: c}}]\n", "an entry in contexts of "),
        (b"contexts: [{name: c, context: 1}]\n", "an entry in contexts of "),
        (b"contexts: [{name: c}]\ncurrent-context: c\n", "names no cluster"),
        (
            b"contexts: [{name: c, context: {cluster: x}}]\ncurrent-context: c\n",
            "names the cluster x, which is missing",
        ),
    ],
    ids=["bracket", "bytes", "tag", "list", "words", "map", "nameless", "number", "bare", "cluster"],
)
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path, content, part):
    (tmp_path / "config").write_bytes(content)
    sentence = said()
    has(sentence, "kubeconfig: ", f"{tmp_path}/config", part)
    assert "secret" not in sentence


def test_a_folder_a_loop_and_a_closed_file_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    has(said(), f"kubeconfig: {tmp_path} cannot be read (Is a directory)")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "loop"))
    has(said(), "loop cannot be read (Too many levels of symbolic links)")
    if os.geteuid() != 0:
        written(tmp_path / "config").chmod(0)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        has(said(), "cannot be read (Permission denied)")


def test_several_files_are_merged_as_kubectl_does(tmp_path, monkeypatch):
    written(tmp_path / "first", clusters=None, users=None)
    written(tmp_path / "last", contexts=[entry("context", "there", cluster="here", user="ann")])
    (tmp_path / "empty").touch()
    paths = [tmp_path / "none", tmp_path / "empty", tmp_path / "first", "", tmp_path / "last"]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, paths)))
    assert api.KubeClient().context == "here"  # the first current-context counts
    assert api.KubeClient("there").context == "there"
    has(said(LostConnectionError), f"the API server of here at {SERVER} is unreachable")
    has(said(context="nowhere"), "context: nowhere is not in the kubeconfig", "which has here, there; name one")


def test_a_context_can_be_named_where_none_is_current(tmp_path):
    written(tmp_path / "config", **{"current-context": None})
    assert api.KubeClient("here").context == "here"
    has(said(), f"context: {tmp_path}/config has no current-context, but here; name one of these with --context")
    written(tmp_path / "config", **{"current-context": "gone"})
    has(said(), "context: gone is not in the kubeconfig", "which has here")


def test_kubeconfig_set_to_nothing_is_the_usual_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    written(tmp_path / ".kube" / "config")
    assert api.KubeClient().context == "here"


# ---- what they hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "cluster", "parts"),
    [
        (
            {"client-certificate": "ann.crt"},
            {},
            ["client-certificate of user ann of ", "/ann.crt cannot be read (No such"],
        ),
        ({"client-key": "/none/ann.key"}, {}, ["client-key of user ann", "/none/ann.key cannot be read"]),
        ({"tokenFile": "token"}, {}, ["tokenFile of user ann", "/token cannot be read"]),
        ({}, {"certificate-authority": "ca.crt"}, ["certificate-authority of cluster here", "/ca.crt cannot be read"]),
        ({"client-certificate-data": "?"}, {}, ["client-certificate-data of user ann", "is not base64"]),
        ({}, {"certificate-authority-data": "a b c"}, ["certificate-authority-data of cluster here", "is not base64"]),
        (
            {},
            {"certificate-authority-data": "bm8=", "server": "https://127.0.0.1:9"},
            ["certificate-authority of cluster here", "is no certificate"],
        ),
        (
            {"client-certificate-data": "bm8=", "client-key-data": "bm8="},
            {"server": "https://127.0.0.1:9"},
            ["client-certificate and client-key of user ann", "are no certificate with its key"],
        ),
        ({}, {"server": None}, ["server of cluster here", "is None, and must be a URL"]),
        ({}, {"server": "localhost:8080"}, ["server of cluster here", "'localhost:8080', and must be a URL"]),
        ({"auth-provider": {"name": "gcp"}}, {}, ["user ann", "auth-provider, which Kubernetes 1.26 has removed"]),
        ({"exec": {"apiVersion": "v1"}}, {}, ["exec of user ann", "needs command and apiVersion"]),
        ({"exec": {"apiVersion": "v1", "command": "true", "args": 5}}, {}, ["exec of user ann", "needs args, env"]),
        (
            {"exec": {"apiVersion": "v1", "command": "true", "env": ["A=1"]}},
            {},
            ["exec of user ann", "needs args, env"],
        ),
        ({}, {"server": "https://[::1"}, ["context here", "cannot be used (Invalid IPv6 URL)"]),
        (
            {},
            {"proxy-url": "socks5://me:secret@127.0.0.1:1"},
            ["the proxy socks5://127.0.0.1:1 before the API server of here cannot be used", "PySocks"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path, user, cluster, parts):
    written(tmp_path / "config", user, cluster)
    has(said(), *parts)


def test_a_user_that_is_missing_is_named_with_those_there_are(tmp_path):
    written(tmp_path / "config", users=[entry("user", "bob")])
    has(said(), "context here", "names the user ann, which is missing (there is bob)")


# ---- credential plugins ----------------------------------------------------------------------------------------------


def test_a_plugin_that_is_missing_is_named_with_its_hint(tmp_path):
    about = {"command": "no-such-auth-plugin", "apiVersion": "v1", "installHint": "Install it:\n  gcloud \x1b[1mx"}
    written(tmp_path / "config", {"exec": about})
    has(said(), "exec: no-such-auth-plugin of user ann", "is not installed; Install it: gcloud \\x1b[1mx.")


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("echo 'not \033[31mlogged in' >&2; exit 3", "failed with exit code 3 (not \\x1b[31mlogged in); log in again"),
        ("echo secret-token", "prints no ExecCredential"),
        ("true", "prints no ExecCredential"),
        ("echo '[1]'", "prints no ExecCredential"),
        ("""echo '{"apiVersion": "v0", "status": {}}'""", "answers in v0, and apiVersion is client.auth"),
        (f"echo '{json.dumps({**CREDENTIAL, 'status': {}})}'", "prints an ExecCredential without a token"),
        (f"echo '{json.dumps({**CREDENTIAL, 'status': {'expirationTimestamp': 'soon'}})}'", "prints no ExecCredential"),
    ],
    ids=["fails", "words", "nothing", "list", "version", "empty", "time"],
)
def test_a_plugin_that_gives_no_credential_is_named(tmp_path, script, part):
    written(tmp_path / "config", plugin(tmp_path / "login", script))
    sentence = said()
    has(sentence, f"exec: {tmp_path}/login of user ann", part)
    assert "secret-token" not in sentence


def test_a_plugin_that_cannot_be_started_is_named(tmp_path):
    user = plugin(tmp_path / "login", "")
    (tmp_path / "login").write_bytes(b"\x7fELF of another machine")
    written(tmp_path / "config", user)
    has(said(), "login of user ann", "cannot be started (Exec format error)")


def test_a_plugin_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig, "PLUGIN_MAY_TAKE_S", 0.2)
    written(tmp_path / "config", plugin(tmp_path / "login", "sleep 600 & sleep 600"))
    has(said(), "login of user ann", "does not answer within 0.2 s")


def test_a_plugin_gets_its_arguments_environment_and_cluster(tmp_path):
    script = f"echo \"$1 $WHO $KUBERNETES_EXEC_INFO\" > {tmp_path}/got; echo '{json.dumps(CREDENTIAL)}'"
    env = [{"name": "WHO", "value": "ann"}]
    user = plugin(tmp_path / "login", script, args=["token"], env=env, provideClusterInfo=True)
    user["exec"]["command"] = "./login"  # from the kubeconfig's folder
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    written(tmp_path / "config", user, {"extensions": [extension]})
    kube = api.KubeClient()
    word, who, info = (tmp_path / "got").read_text().split(" ", 2)
    assert (word, who) == ("token", "ann")
    spec = json.loads(info)["spec"]
    assert (spec["cluster"]["server"], spec["cluster"]["config"]) == (SERVER, {"audience": "x"})
    assert kube._api.configuration.get_api_key_with_prefix("BearerToken") == "Bearer t1"


def test_a_plugin_is_asked_again_before_its_token_expires(tmp_path, monkeypatch):
    answer = {**CREDENTIAL, "status": {"token": "'$(cat count)'", "expirationTimestamp": "2026-11-24T15:00:00Z"}}
    script = f"cd {tmp_path}; echo x >> count; echo '{json.dumps(answer)}'"
    written(tmp_path / "config", plugin(tmp_path / "login", script))
    monkeypatch.setattr(kubeconfig.time, "time", lambda: 1_795_532_000.0)  # some minutes earlier
    kube = api.KubeClient()
    settings = kube._api.configuration
    assert settings.get_api_key_with_prefix("BearerToken") == "Bearer x"
    monkeypatch.setattr(kubeconfig.time, "time", lambda: 1_795_532_395.0)
    assert settings.get_api_key_with_prefix("BearerToken").split() == ["Bearer", "x", "x"]
    (tmp_path / "login").write_text("#!/bin/sh\necho expired >&2; exit 1\n")
    with pytest.raises(ClusterError, match=r"exit code 1 \(expired\)"):
        kube.rayjob("r1")


# ---- in a pod --------------------------------------------------------------------------------------------------------


def test_a_pod_without_a_token_of_its_account_is_told_so(monkeypatch):
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    has(said(), "service account: this pod has no usable token in /var/run/secrets", "automountServiceAccountToken")


def test_a_pod_is_in_its_own_namespace(tmp_path, monkeypatch):
    from kubernetes import config

    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setattr(config, "load_incluster_config", lambda client_configuration: None)
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", tmp_path)
    assert api.KubeClient().namespace == api.DEFAULT_NAMESPACE
    (tmp_path / "namespace").write_text("team\n")
    assert (api.KubeClient().namespace, api.KubeClient().context) == ("team", "this pod's cluster")


# ---- the server ------------------------------------------------------------------------------------------------------


def certificate(folder, name):
    """A certificate of its own authority for localhost, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.sign(key, hashes.SHA256())
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.TraditionalOpenSSL
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return files


class Unauthorised(http.server.BaseHTTPRequestHandler):
    """An API server that accepts no credentials."""

    def do_GET(self):
        body = json.dumps({"kind": "Status", "message": "Unauthorized", "code": 401}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def tls_server(tmp_path):
    """An API server with TLS on this machine: its URL and the file of its authority."""
    authority, key = certificate(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    server = socketserver.TCPServer(("127.0.0.1", 0), Unauthorised)  # HTTPServer asks for its own name, for seconds
    server.handle_error = lambda *_: None  # a client that does not trust it
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"https://localhost:{server.server_address[1]}", authority
    server.shutdown()
    thread.join()
    server.server_close()


def data(file):
    """A file as kubeconfigs hold it."""
    return base64.b64encode(file.read_bytes()).decode()


def test_a_token_that_has_expired_is_refused_with_the_context(tmp_path, tls_server):
    server, authority = tls_server
    written(tmp_path / "config", cluster={"server": server, "certificate-authority": authority.name})
    has(said(), "rights: training of here does not accept these credentials; log in again")
    user = plugin(tmp_path / "login", f"echo '{json.dumps(CREDENTIAL)}'")
    written(tmp_path / "config", user, {"server": server, "certificate-authority": authority.name})
    has(said(), "rights: training of here does not accept these credentials")


def test_a_client_certificate_of_a_plugin_reaches_the_server(tmp_path, tls_server):
    server, authority = tls_server
    own, key = certificate(tmp_path, "ann")
    status = {"clientCertificateData": own.read_text(), "clientKeyData": key.read_text()}
    (tmp_path / "answer").write_text(json.dumps({**CREDENTIAL, "status": status}))
    user = plugin(tmp_path / "login", f"cat {tmp_path}/answer")
    written(tmp_path / "config", user, {"server": server, "certificate-authority-data": data(authority)})
    has(said(), "does not accept these credentials")


def test_an_authority_that_does_not_match_is_told_from_an_outage(tmp_path, tls_server):
    server, _ = tls_server
    other, _ = certificate(tmp_path, "other")
    written(tmp_path / "config", cluster={"server": server, "certificate-authority-data": data(other)})
    has(said(), "does not trust the certificate of training of here", "get a new kubeconfig")


def test_a_server_that_is_not_checked_gives_no_warning(tmp_path, tls_server):
    server, _ = tls_server
    written(tmp_path / "config", cluster={"server": server, "insecure-skip-tls-verify": True})
    has(said(), "does not accept these credentials")


def test_a_key_of_another_certificate_is_refused_before_any_request(tmp_path):
    own, _ = certificate(tmp_path, "ann")
    _, other = certificate(tmp_path, "bob")
    user = {"client-certificate-data": data(own), "client-key-data": data(other)}
    written(tmp_path / "config", user, {"server": "https://localhost:9"})
    has(said(), "client-certificate and client-key of user ann", "are no certificate with its key")


def test_a_dead_proxy_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    cluster = {"server": "https://api.example:6443", "proxy-url": f"http://me:secret@127.0.0.1:{port}"}
    written(tmp_path / "config", cluster=cluster)
    has(said(LostConnectionError), "https://api.example:6443", f"through the proxy http://127.0.0.1:{port}", "refused")


def test_a_server_without_an_address_is_unreachable(tmp_path):
    written(tmp_path / "config", cluster={"server": "https://api.invalid:6443"})
    sentence = said(LostConnectionError)
    has(
        sentence, "the API server of here at https://api.invalid:6443 is unreachable (Failed to resolve 'api.invalid' ("
    )
    assert "Errno" not in sentence
    assert sentence.count("(") == sentence.count(")")


def test_a_namespace_of_digits_is_a_name(tmp_path):
    written(tmp_path / "config", contexts=[entry("context", cluster="here", user="ann", namespace=1234)])
    assert api.KubeClient().namespace == "1234"


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize(
    "user",
    [{"exec": {"command": "no-such-plugin", "apiVersion": "v1"}}, {"client-certificate": "none"}],
    ids=["plugin", "certificate"],
)
def test_the_command_says_one_sentence_and_exits_with_the_clusters_code(tmp_path, user):
    written(tmp_path / "config", user)
    command = [sys.executable, "-m", "trainer", "status", "r1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.CLUSTER
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    has(done.stderr, "user ann of")
