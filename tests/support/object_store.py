"""Real object stores for the tests, each with one empty bucket, and the environment variables that lead to it.

``moto`` and ``gcs`` run in this process. ``versitygw`` and ``azurite`` are programs: `make stores` brings them.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from support import google_store

BUCKET = "runs"
BROUGHT = Path(__file__).parents[2] / ".stores"  # where `make stores` puts them
SECRET = "not-a-secret"
Environment = dict[str, str]


@contextmanager
def s3_server() -> Iterator[Environment]:
    """Moto, for as long as it is needed."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield _with_bucket(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def versitygw() -> Iterator[Environment]:
    """The S3 server that keeps its objects in a folder, and is made for production."""
    program = _program("versitygw", BROUGHT / "bin")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="versitygw-") as folder:
        keys = {"ROOT_ACCESS_KEY": "a-test", "ROOT_SECRET_KEY": SECRET}
        with _served([program, "--port", f"127.0.0.1:{port}", "posix", folder], port, keys):
            yield _with_bucket(f"http://127.0.0.1:{port}")


@contextmanager
def gcs() -> Iterator[Environment]:
    """Google's, emulated."""
    with google_store.server(BUCKET, free_port()) as endpoint:
        account = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
        yield {"GOOGLE_BASE_URL": endpoint, "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}


@contextmanager
def azurite() -> Iterator[Environment]:
    """Microsoft's own emulator of Azure."""
    program = _program("azurite-blob", BROUGHT / "node_modules" / ".bin")
    port = free_port()
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--silent", "--disableTelemetry"]
    # the account and key that are built into it, and printed in its manual
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    environment = {
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/devstoreaccount1",
        "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
        "AZURE_STORAGE_ACCOUNT_KEY": key,
    }
    with _served([program, *options, "--skipApiVersionCheck"], port, {}):
        _make_container(environment)
        yield environment


Server = Callable[[], AbstractContextManager[Environment]]
STORES: Mapping[str, tuple[str, Server]] = {
    "moto": ("s3", s3_server),
    "versitygw": ("s3", versitygw),
    "gcs": ("gs", gcs),
    "azurite": ("az", azurite),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(name: str, folder: Path) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(folder), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not on the PATH: `make stores` brings it into {folder}")
    return found


@contextmanager
def _served(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while not _answers(port):
                assert server.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < until
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _with_bucket(endpoint: str) -> Environment:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="a-test",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a-test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def _make_container(environment: Environment) -> None:
    """The one request that obstore has no function for, signed with the account's key."""
    account, endpoint = environment["AZURE_STORAGE_ACCOUNT_NAME"], environment["AZURE_STORAGE_ENDPOINT"]
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    signed = [f"{name}:{value}" for name, value in headers.items()]
    signed += [f"/{account}/{account}/{BUCKET}", "restype:container"]
    text = "PUT" + "\n" * 12 + "\n".join(signed)
    key = base64.b64decode(environment["AZURE_STORAGE_ACCOUNT_KEY"])
    signature = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    request = urllib.request.Request(
        f"{endpoint}/{BUCKET}?restype=container",
        method="PUT",
        headers={**headers, "Authorization": f"SharedKey {account}:{signature}"},
    )
    urllib.request.urlopen(request, timeout=30).close()
