"""Who asks an object store: the identity that a cloud gives to this machine or pod, and what its token server says.

A pod proves who it is with the token of its service account; the cloud's token server gives a token of the cloud for
it. If that fails, the store was never asked, and the step to take is another.
"""

from __future__ import annotations

import base64
import os
import re
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trainer.storage.parsing import SENSELESS, from_json

METADATA_SERVER = "169.254.169.254"
CONTAINER_SERVERS = ("http://169.254.170.2", "http://169.254.170.23", "http://[fd00:ec2::23]")  # of ECS and EKS
TOKEN_FILES = {
    "s3": ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    "az": ("AZURE_FEDERATED_TOKEN_FILE",),
}
CREDENTIALS = {  # what names an identity in the environment, and what it is
    "s3": [("AWS_ACCESS_KEY_ID", "access key"), ("AWS_ROLE_ARN", "role"), ("AWS_PROFILE", "profile")],
    "gs": [("GOOGLE_APPLICATION_CREDENTIALS", "key file"), ("GOOGLE_SERVICE_ACCOUNT", "key file")],
    "az": [("AZURE_CLIENT_ID", "client"), ("AZURE_STORAGE_ACCOUNT_NAME", "account")],
}
MOST_WORDS = 200  # characters of what a cloud says
ANSWERS_S = 2.0  # a metadata server, which is on the node
# The client's words around a request that has failed: its method and URL, and the answer's status and body.
REQUEST = re.compile(r"Error performing (token request: Error performing )?[A-Z]+ (\S+) in ")
ANSWER = re.compile(r"returned non-2xx status code: (\d{3})[^:\n]*(?:: (.*?))?\s*(?:\n\nDebug source|\Z)", re.DOTALL)
NO_FILE = re.compile(r"Failed to read (?:\w+ )?token file|Error reading federated token file")
TOO_MANY = 429  # the one refusal that passes


@dataclass(frozen=True)
class Denial:
    """A token that was not given: the server's URL, and its status and words; no status if it did not answer."""

    server: str
    status: int | None
    words: str

    @property
    def is_final(self) -> bool:
        """Whether retrying is of no use."""
        return self.status is not None and 400 <= self.status < 500 and self.status != TOO_MANY


def denial(text: str, uri: str) -> Denial | None:
    """Return what went wrong with a token, by the text of the client's error; None if that is about the store itself.

    Who has no credentials at all is sent to the metadata server last, and is not in a pod of Google: that is None too.
    """
    scheme = uri.partition("://")[0]
    request = REQUEST.search(text)
    server = request and _token_server(request[2], scheme, by_name=request[1] is not None)
    if not server or (METADATA_SERVER in server and not (scheme == "gs" and _has_metadata_server())):
        return None
    answer = ANSWER.search(text)
    return Denial(server, int(answer[1]) if answer else None, _message(answer[2] or "") if answer else "")


def missing_token_file(text: str, uri: str) -> str | None:
    """Return the variable and the path of a token file that the client cannot read, if its error is about that."""
    if not NO_FILE.search(text):
        return None
    names = TOKEN_FILES.get(uri.partition("://")[0], ())
    return next((f"{name}: {path}" for name in names if (path := os.environ.get(name))), "the token file")


def _token_server(url: str, scheme: str, by_name: bool) -> str | None:
    if url == "REDACTED":  # the client hides the URL of STS, which has the token in it
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        sts = os.environ.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.amazonaws.com"
        return sts if scheme == "s3" and os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") else None
    container = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    servers = (*CONTAINER_SERVERS, f"http://{METADATA_SERVER}", *([container] if container else []))
    if not by_name and not url.startswith(servers):
        return None
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _has_metadata_server() -> bool:
    """Whether a metadata server is meant to be there: in a pod, or where the environment names one."""
    return any(os.environ.get(name) for name in ("KUBERNETES_SERVICE_HOST", "GCE_METADATA_HOST", "GCE_METADATA_IP"))


def _message(body: str) -> str:
    """The words for people in an answer, in JSON or XML; they are printed as all text of others is."""
    found: object = None
    with suppress(*SENSELESS):
        content = from_json(body)
        error = content.get("error")
        found = error.get("message") if isinstance(error, dict) else None
        found = found or content.get("error_description") or content.get("message") or error
    if match := re.search(r"<Message>([^<]*)</Message>", body):
        found = match[1]
    return " ".join(str(found or body).split())[:MOST_WORDS]


def service_account(uri: str) -> str | None:
    """Return namespace and name of this pod's service account, as in its token, such as ``training/training-head``."""
    for name in TOKEN_FILES.get(uri.partition("://")[0], ()):
        with suppress(OSError, *SENSELESS):
            payload = Path(os.environ[name]).read_text().split(".")[1]
            subject = from_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
            _, _, namespace, account = subject.split(":")
            return f"{namespace}/{account}"
    return None


def step(uri: str) -> str:
    """Return what to do so that the cloud gives this pod or machine a token."""
    account = service_account(uri)
    ours = f"service account {account}" if account else "this pod's service account"
    if uri.startswith("gs://"):
        return f"bind {ours} to a Google service account, with roles/iam.workloadIdentityUser: docs/clouds.md"
    if uri.startswith("az://"):
        client = os.environ.get("AZURE_CLIENT_ID", "the managed identity")
        return f"bind {ours} to {client}, with a federated credential for its issuer and subject: docs/clouds.md"
    role = os.environ.get("AWS_ROLE_ARN")
    if role:
        return f"bind {ours} to {role}: the role's trust policy must name it: docs/clouds.md"
    return f"bind {ours} to a role: aws eks create-pod-identity-association: docs/clouds.md"


def describe(uri: str) -> str:
    """Return by whose credentials a storage is used, as far as the environment tells; never a secret."""
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return f"user {os.getuid()}"
    account = service_account(uri)
    for variable, kind in CREDENTIALS[scheme]:
        if value := os.environ.get(variable):
            by = f" by service account {account}" if account and kind in ("role", "client") else ""
            return f"{kind} {value}{by}"
    if account:
        return f"the role of service account {account}"
    if scheme == "gs" and _has_metadata_server() and (email := _google_account()):
        return f"Google service account {email}"
    return "the identity of this machine or pod"


def _google_account() -> str | None:
    host = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP") or METADATA_SERVER
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/service-accounts/default/email",
        headers={"Metadata-Flavor": "Google"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on the node: no proxy leads there
    with suppress(OSError, *SENSELESS), opener.open(request, timeout=ANSWERS_S) as answer:
        return str(answer.read(MOST_WORDS).decode()).strip() or None
    return None
