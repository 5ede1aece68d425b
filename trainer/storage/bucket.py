"""A bucket of an object store, and its client, made from the environment; keys are relative to the bucket.

Credentials come from the environment or the cloud's identity chain, never through here. Requests are retried with
backoff up to a deadline.
"""

from __future__ import annotations

import importlib.util
import os
import re
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainer.errors import StorageError, sentence

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# The variables that name a server other than the cloud's own, in the order in which they win.
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
KEYS = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}
# What the clouds' own tools read and the client does not, by its key there.
ALIASES = {
    "az": {"AZURE_STORAGE_ACCOUNT": "account_name", "AZURE_STORAGE_KEY": "account_key"},
}
# One of these, and S3 needs no profile: keys, a pod's role, a container's role.
S3_IDENTITIES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


# Names of ours begin with a letter or digit. A listing that begins here meets no empty segment, `.` or `..`.
FIRST_OF_OURS = "0"
REMOVE = "remove that object: no run makes such names"
passed_over: dict[str, None] = {}  # what listings have left out, a sentence each, in order


class Bucket:
    """A bucket of an object store; keys are relative to it."""

    def __init__(self, uri: str, deadline_s: int):
        self._uri = uri
        self._store = client(uri, deadline_s)

    def read(self, key: str) -> bytes | None:
        """Return the whole object, or None if there is none."""
        import obstore

        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Replace an object."""
        import obstore

        obstore.put(self._store, key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object if there is none of that name; whether this call made it."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(self._store, key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # the client repeats a request whose answer was lost, and then meets its own object
            return self.read(key) == content
        return True

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        with suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def files(self, key: str) -> list[str]:
        """Return the keys of all objects below a prefix, relative to it."""
        from obstore.exceptions import InvalidPathError

        try:
            paths = list(self._paths(key))
        except InvalidPathError as error:
            paths = list(self._paths(key, FIRST_OF_OURS))
            self._pass_over(error)
        return sorted(path[len(key) :].lstrip("/") for path in paths)

    def _paths(self, key: str, after: str | None = None) -> Iterable[str]:
        """All keys below a prefix; the client ends a listing at the first name that it has no word for."""
        import obstore

        begins = after and (f"{key}/{after}" if key else after)
        return (meta["path"] for chunk in obstore.list(self._store, key or None, offset=begins) for meta in chunk)

    def _pass_over(self, error: Exception) -> None:
        passed_over[sentence(f"storage: {self._uri} holds {unusable_name(error)}, which is left out", REMOVE)] = None

    def folders(self, key: str) -> list[str]:
        """Return the names right below a prefix that have objects below them."""
        import obstore
        from obstore.exceptions import InvalidPathError

        try:
            prefixes = obstore.list_with_delimiter(self._store, key or None)["common_prefixes"]
        except InvalidPathError as error:  # only the listing of all keys can begin behind it
            below = [path[len(key) :].lstrip("/").split("/") for path in self._paths(key, FIRST_OF_OURS)]
            self._pass_over(error)
            return sorted({names[0] for names in below if len(names) > 1})
        return sorted(prefix.rsplit("/", 1)[-1] for prefix in prefixes)

    def prepare(self, key: str) -> None:
        """Do nothing: a prefix needs no folder."""


def unusable_name(error: Exception) -> str:
    """Return the name that the client's error is about, in quotes, as it is written there: with escapes."""
    match = re.search(r'path: ("(?:[^"\\]|\\.)*")', str(error)) or re.search(r'Path ("[^"]*")', str(error))
    return f"an object named {match[1][:300]}" if match else "an object with a name that is not valid"


def endpoint(uri: str) -> str | None:
    """Return the server that the environment names for stores of this kind, instead of the cloud's own."""
    return endpoint_variable(uri)[1]


def endpoint_variable(uri: str) -> tuple[str, str | None]:
    """Return the variable that names the server, and the server; the first that may, and None, if none does."""
    names = ENDPOINTS[uri.partition("://")[0]]
    name = next((name for name in names if os.environ.get(name)), names[0])
    server = os.environ.get(name) or None
    if name == "STORAGE_EMULATOR_HOST" and server and "://" not in server:
        server = f"http://{server}"  # Google's own clients take it so
    return name, server


def proxy_of(uri: str) -> tuple[str, str] | None:
    """Return the variable and the address of the proxy that requests to this store go through, if any does."""
    server = urlsplit(endpoint(uri) or "https://")
    variable = f"{server.scheme}_proxy"
    name = next((name for name in (variable, variable.upper(), "all_proxy", "ALL_PROXY") if os.environ.get(name)), None)
    if name is None or (server.hostname and urllib.request.proxy_bypass(server.hostname)):
        return None
    return name, os.environ[name]


def check_authorities() -> None:
    """Check that the files of certificate authorities are there: without one, no client is made, not even for http.

    Raises:
        StorageError: one is not there.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"):
        if (path := os.environ.get(name)) and not Path(path).exists():
            raise StorageError(f"{name}: {path} does not exist", "correct it, or unset it")


@lru_cache
def client(bucket: str, deadline_s: int) -> ObjectStore:
    """Return the client for the bucket at a URI.

    Raises:
        StorageError: a variable of the environment has a value that no client can be made of.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme = bucket.partition("://")[0]
    check_authorities()
    _forget_empty_variables(PREFIXES[scheme])
    config, credentials = _config(bucket, scheme), _profile(bucket) if scheme == "s3" else {}
    options: Any = {
        "connect_timeout": timedelta(seconds=min(5, deadline_s)),
        "timeout": timedelta(seconds=deadline_s),
        "allow_http": (endpoint(bucket) or "").startswith("http://"),  # an explicit endpoint is meant as it is written
    }
    retries: Any = {"max_retries": 10, "retry_timeout": timedelta(seconds=deadline_s)}
    try:
        with _ca_bundle():
            return from_url(bucket, config=config, client_options=options, retry_config=retries, **credentials)
    except (BaseError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].partition("error: ")[2] or str(error).strip().splitlines()[0]
        names = [
            name
            for name, value in os.environ.items()
            if name.startswith(PREFIXES[scheme]) and repr(value)[1:-1] in reason
        ]
        raise StorageError(
            f"storage: {bucket}: the environment does not configure this store: {reason}",
            f"correct {' or '.join(names) or PREFIXES[scheme] + '* in the environment'}",
        ) from None


def _config(bucket: str, scheme: str) -> Any:
    """Settings that the environment gives under names that the client does not read, and those that must not differ."""
    config: dict[str, Any] = {
        key: os.environ[name] for name, key in ALIASES.get(scheme, {}).items() if os.environ.get(name)
    }
    if scheme == "s3":
        config["conditional_put"] = "etag"  # one writer per run depends on it
    name, server = endpoint_variable(bucket)
    if server is not None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StorageError(f"{name}: {server} is not the URL of a server", "write it as https://host:port")
        config[KEYS[scheme]] = server
        if name == "STORAGE_EMULATOR_HOST":
            config["skip_signature"] = True
    if (
        scheme == "az"
        and os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        and "AZURE_STORAGE_ACCOUNT_NAME" not in os.environ
    ):
        raise StorageError(
            "AZURE_STORAGE_CONNECTION_STRING: connection strings are not read",
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY instead",
        )
    return config


def _profile(bucket: str) -> dict[str, Any]:
    """The credentials of a profile in ~/.aws, if that is the identity which the environment names.

    The client reads no profiles; boto3 does, with single sign-on and assumed roles, where it is installed.
    """
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    if any(os.environ.get(name) for name in S3_IDENTITIES) or not (profile or has_profiles()):
        return {}
    if importlib.util.find_spec("boto3") is None:
        if profile is None:  # then this machine may have an identity of its own
            return {}
        raise StorageError(
            f"AWS_PROFILE: {profile} cannot be read without boto3",
            f'pip install boto3, or run: eval "$(aws configure export-credentials --profile {profile} --format env)"',
        )
    import boto3  # type: ignore[import-untyped] # it has no types of its own
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped] # as above
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return {"credential_provider": Boto3CredentialProvider(boto3.Session(profile_name=profile))}
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"AWS_PROFILE: {profile or 'default'} gives no credentials for {bucket} ({error})",
            "correct ~/.aws/config, or log in: aws sso login",
        ) from None


def has_profiles() -> bool:
    """Whether there is a file of AWS credentials in the home folder, or where the environment says."""
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    with suppress(RuntimeError):  # a user without a home folder
        return Path(named or "~/.aws/credentials").expanduser().is_file()
    return False


def _forget_empty_variables(prefix: str) -> None:
    """Unset the variables that are set to nothing, as Compose files leave them: the client takes them as values."""
    for name in [name for name, value in os.environ.items() if name.startswith(prefix) and not value.strip()]:
        del os.environ[name]


@contextmanager
def _ca_bundle() -> Iterator[None]:
    """Let AWS_CA_BUNDLE, which the AWS tools read, count while a client is made: it reads SSL_CERT_FILE then."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if not bundle or "SSL_CERT_FILE" in os.environ:
        yield
        return
    os.environ["SSL_CERT_FILE"] = bundle
    try:
        yield
    finally:
        del os.environ["SSL_CERT_FILE"]
