"""Where runs are kept: a folder, or a bucket of S3, Google or Azure. Everything is named by its URI.

Credentials come from the environment or the cloud's identity chain, never through here. Requests are retried with
backoff up to a deadline; what then still fails is a sentence.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.errors import OutageError, StorageError
from trainer.storage.store_errors import ENDPOINTS, endpoint, sentences

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = tuple(ENDPOINTS)
DEADLINE_S = 60  # of one request with all its retries
RETRY_EVERY_S = 2.0  # during an outage
CHECK_DEADLINE_S = 10  # of the check before a run: whoever waits at a terminal wants to know


T = TypeVar("T")


def normalise(storage: str) -> str:
    """A storage as it is used everywhere: an absolute folder, or the URI of a bucket without a slash at its end.

    Raises:
        StorageError: it is a URI that is none of these.
    """
    scheme, separator, rest = storage.partition("://")
    if not storage.strip():
        raise StorageError("storage: it is empty; give a folder such as runs, or a URI such as s3://bucket/prefix.")
    if not separator:
        return str(Path(storage).expanduser().absolute())
    if scheme == "file":
        return str(Path(rest).absolute())
    if scheme not in SCHEMES:
        raise StorageError(
            f"storage: {storage} is of no kind known here; give a folder, or a URI of file, {', '.join(SCHEMES)}."
        )
    if not rest.strip("/"):
        raise StorageError(f"storage: {storage} names no bucket; give it as {scheme}://bucket/prefix.")
    return storage.rstrip("/")


def is_remote(uri: str) -> bool:
    """Whether a normalised URI is in an object store, not a folder of this machine."""
    return "://" in uri


def join(uri: str, *names: str) -> str:
    """The URI of something below another."""
    return "/".join([uri.rstrip("/"), *names]) if is_remote(uri) else str(Path(uri, *names))


def parent(uri: str) -> str:
    """The URI that a run's URI is below."""
    return uri.rsplit("/", 1)[0] if is_remote(uri) else str(Path(uri).parent)


def read(uri: str) -> bytes | None:
    """The whole object, or None if there is none.

    Raises:
        StorageError: it cannot be read.
    """
    with sentences(uri, "read"):
        if not is_remote(uri):
            try:
                return Path(uri).read_bytes()
            except FileNotFoundError:
                return None
        import obstore

        store, key = _locate(uri)
        try:
            return bytes(obstore.get(store, key).bytes())
        except FileNotFoundError:
            return None


def write(uri: str, content: bytes) -> None:
    """Put an object; it appears whole or not at all, and replaces what was there.

    Raises:
        StorageError: it cannot be written.
    """
    with sentences(uri, "written"):
        if is_remote(uri):
            import obstore

            store, key = _locate(uri)
            obstore.put(store, key, content)
            return
        partial = _written_aside(Path(uri), content)
        partial.replace(uri)
        _keep(Path(uri).parent)


def create(uri: str, content: bytes) -> bool:
    """Put an object if there is none of that name; whether this call made it. Of many at once, one does.

    Raises:
        StorageError: it cannot be written.
    """
    with sentences(uri, "written"):
        if is_remote(uri):
            import obstore
            from obstore.exceptions import AlreadyExistsError

            store, key = _locate(uri)
            try:
                obstore.put(store, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # a request whose answer was lost is sent again by the client, and then meets its own object
                return read(uri) == content
            return True
        partial = _written_aside(Path(uri), content)
        try:
            os.link(partial, uri)  # unlike a rename, it fails if the name is taken
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        _keep(Path(uri).parent)
        return True


def _written_aside(file: Path, content: bytes) -> Path:
    """The content on the disk, under a name of this thread's own beside the file's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with partial.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError:  # a full disk: leave nothing half-written
        partial.unlink(missing_ok=True)
        raise
    return partial


def _keep(folder: Path) -> None:
    """Let the names in a folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(uri: str) -> None:
    """Remove an object; one that is not there is no error.

    Raises:
        StorageError: it cannot be removed.
    """
    with sentences(uri, "removed"):
        if not is_remote(uri):
            Path(uri).unlink(missing_ok=True)
            return
        import obstore

        store, key = _locate(uri)
        with suppress(FileNotFoundError):
            obstore.delete(store, key)


def remove_folder(uri: str) -> None:
    """Remove an empty folder; object stores have none."""
    with suppress(OSError):
        if not is_remote(uri):
            Path(uri).rmdir()


def files(uri: str) -> list[str]:
    """Names of all objects below a URI, relative to it, sorted.

    Raises:
        StorageError: they cannot be listed.
    """
    with sentences(uri, "listed"):
        if not is_remote(uri):
            return sorted(str(path.relative_to(uri)) for path in Path(uri).rglob("*") if path.is_file())
        import obstore

        store, key = _locate(uri)
        found = [meta["path"] for chunk in obstore.list(store, key or None) for meta in chunk]
        return sorted(path[len(key) :].lstrip("/") for path in found)


def folders(uri: str) -> list[str]:
    """Names right below a URI that hold objects of their own, sorted.

    Raises:
        StorageError: they cannot be listed.
    """
    with sentences(uri, "listed"):
        if not is_remote(uri):
            return sorted(path.name for path in Path(uri).glob("*") if path.is_dir())
        import obstore

        store, key = _locate(uri)
        return sorted(
            prefix.rsplit("/", 1)[-1] for prefix in obstore.list_with_delimiter(store, key or None)["common_prefixes"]
        )


def check(uri: str) -> None:
    """Write to a storage once, and remove it again.

    Raises:
        StorageError: it is no folder, there is no such bucket, or this identity may not write there.
    """
    probe = join(uri, f".writable-{secrets.token_hex(8)}")  # of this check alone, whoever else checks
    with sentences(uri, "written"):
        if not is_remote(uri):
            Path(uri).mkdir(parents=True, exist_ok=True)
            Path(probe).touch()
            Path(probe).unlink()
            return
        import obstore

        store, key = _locate(probe, CHECK_DEADLINE_S)
        obstore.put(store, key, b"")
        with suppress(FileNotFoundError):
            obstore.delete(store, key)


def through_outage(
    act: Callable[[], T], max_outage_s: float, away: Callable[[OutageError], None] = lambda _: None
) -> T:
    """What `act` returns; while an object store does not answer it is tried again, for so long. `away` hears of it.

    Raises:
        OutageError: the store did not answer all that time.
    """
    began = time.monotonic()
    while True:
        try:
            return act()
        except OutageError as error:
            away(error)
            if time.monotonic() - began >= max_outage_s:
                raise
        time.sleep(RETRY_EVERY_S)


def _locate(uri: str, deadline_s: int = DEADLINE_S) -> tuple[ObjectStore, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return _store(f"{scheme}://{bucket}", deadline_s), key


@lru_cache
def _store(bucket: str, deadline_s: int) -> ObjectStore:
    from obstore.store import from_url

    options: Any = {
        "connect_timeout": timedelta(seconds=min(5, deadline_s)),
        "timeout": timedelta(seconds=deadline_s),
        "allow_http": (endpoint(bucket) or "").startswith("http://"),  # whoever gives it means it
    }
    return from_url(
        bucket,
        client_options=options,
        retry_config={"max_retries": 10, "retry_timeout": timedelta(seconds=deadline_s)},
    )
