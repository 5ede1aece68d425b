"""Fakes of the clouds' identity servers. They are no clouds: they answer as the clouds document it, and note requests.

One server plays both parts: it gives tokens, and as the store it takes only requests that have one of those.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SUBJECT = "system:serviceaccount:training:training-head"
GOOGLE_ACCOUNT = "training@project.iam.gserviceaccount.com"
ROLE = "arn:aws:iam::111122223333:role/training"
# What the clouds say when the identity is not bound, as they document it.
DENIALS = {
    "gke": (
        403,
        {"error": {"code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied on resource."}},
        "Permission 'iam.serviceAccounts.getAccessToken' denied",
    ),
    "pod-identity": (
        403,
        {"message": "[AccessDeniedException]: Unauthorized! EKS does not have permissions to assume the role"},
        "EKS does not have permissions to assume the role",
    ),
    "irsa": (
        403,
        "<Error><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message>",
        "Not authorized to perform sts:AssumeRoleWithWebIdentity",
    ),
    "azure": (
        400,
        {"error": "invalid_client", "error_description": "AADSTS70021: No matching federated identity record found"},
        "AADSTS70021: No matching federated identity record found",
    ),
}


@dataclass
class FakeCloud:
    """The server as a test holds it: `status` and `body` answer requests for tokens, unless it `hangs`."""

    url: str = ""
    expires_in_s: int = 3600
    status: int = 200
    body: bytes = b""
    hangs: bool = False
    tokens: int = 0  # given
    asked: int = 0  # for tokens
    used: list[str] = field(default_factory=list)  # tokens that came with requests to the store
    over: threading.Event = field(default_factory=threading.Event)

    def deny(self, status: int, body: object) -> None:
        """Refuse every token from now on."""
        self.status = status
        self.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()


@contextmanager
def fake_cloud(certificate: Path | None = None, key: Path | None = None) -> Iterator[FakeCloud]:
    """A fake, for as long as it is needed; with TLS if there is a certificate."""
    cloud = FakeCloud()
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment] # clients break off here
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate, key)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        cloud.url = f"{'https' if certificate else 'http'}://localhost:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield cloud
        cloud.over.set()
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: FakeCloud

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        asks = f"{self.path} {body}"
        if self.path.endswith("/email"):
            self._answer(200, GOOGLE_ACCOUNT.encode())
        elif any(
            word in asks for word in ("computeMetadata", "/v1/credentials", "AssumeRoleWithWebIdentity", "oauth2")
        ):
            self._give_token(asks)
        else:
            self._serve()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 # the names http.server looks for

    def _give_token(self, asks: str) -> None:
        cloud = self.cloud
        cloud.asked += 1
        if cloud.hangs:
            cloud.over.wait()
            self.close_connection = True
            return
        if cloud.status != 200:
            self._answer(cloud.status, cloud.body)
            return
        cloud.tokens += 1
        token = f"token-{cloud.tokens}"
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + cloud.expires_in_s))
        keys = {"AccessKeyId": "key", "SecretAccessKey": "secret"}
        if "/v1/credentials" in asks:
            self._answer(200, json.dumps({**keys, "Token": token, "Expiration": expires}).encode())
        elif "AssumeRoleWithWebIdentity" in asks:
            fields = {**keys, "SessionToken": token, "Expiration": expires}
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
            names = ("AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult", "Credentials")
            opening, closing = "".join(f"<{name}>" for name in names), "".join(f"</{name}>" for name in reversed(names))
            self._answer(200, f"{opening}{inner}{closing}".encode())
        else:
            content = {"access_token": token, "expires_in": cloud.expires_in_s, "token_type": "Bearer"}
            self._answer(200, json.dumps(content).encode())

    def _serve(self) -> None:
        bearer = self.headers.get("Authorization", "").partition("Bearer ")[2]
        token = self.headers.get("X-Amz-Security-Token") or bearer
        self.cloud.used.append(token)
        self._answer(200 if token.startswith("token-") else 403, b"content")

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "ETag": '"x"', "Last-Modified": formatdate(0, usegmt=True)}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def pod_environment(kind: str, cloud: str, store: str, folder: Path) -> dict[str, str]:
    """Return what a pod of that kind of identity has in its environment; its token file is written to `folder`."""
    token = folder / "token"
    payload = base64.urlsafe_b64encode(json.dumps({"sub": SUBJECT}).encode()).decode().rstrip("=")
    token.write_text(f"e30.{payload}.c2ln")
    aws = {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": store}
    host = cloud.partition("://")[2]
    return {
        "gke": {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GOOGLE_BASE_URL": store},
        "pod-identity": {
            **aws,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{cloud}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        },
        "irsa": {
            **aws,
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
            "AWS_ROLE_ARN": ROLE,
            "AWS_ENDPOINT_URL_STS": cloud,
        },
        "azure": {
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_CLIENT_ID": "client-1",
            "AZURE_TENANT_ID": "tenant",
            "AZURE_FEDERATED_TOKEN_FILE": str(token),
            "AZURE_AUTHORITY_HOST": cloud,
            "AZURE_STORAGE_ENDPOINT": f"{store}/account",
        },
    }[kind]


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Return the files of a certificate authority of our own, a certificate of it for localhost, and its key."""
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
