"""Where runs are kept: a folder, or a bucket of S3, Google or Azure. Everything is named by its URI.

Credentials come from the environment or the cloud's identity chain, never through here. Requests are retried with
backoff up to a deadline; what still fails then is an error with its fix.
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
CHECK_DEADLINE_S = 10  # of the check before a run, which a person waits for


T = TypeVar("T")


def normalise(storage: str) -> str:
    """Return a storage as it is used everywhere: an absolute folder, or a bucket's URI without a slash at its end.

    Raises:
        StorageError: it is neither.
    """
    scheme, separator, rest = storage.partition("://")
    if not storage.strip():
        raise StorageError("storage: it is empty", "give a folder such as runs, or a URI such as s3://bucket/prefix")
    if not separator:
        return str(Path(storage).expanduser().absolute())
    if scheme == "file":
        return str(Path(rest).absolute())
    if scheme not in SCHEMES:
        raise StorageError(
            f"storage: {storage} has an unknown scheme", f"give a folder, or a URI of file, {', '.join(SCHEMES)}"
        )
    if not rest.strip("/"):
        raise StorageError(f"storage: {storage} names no bucket", f"write it as {scheme}://bucket/prefix")
    return storage.rstrip("/")


def is_remote(uri: str) -> bool:
    """Whether a normalised URI is in an object store, not a folder of this machine."""
    return "://" in uri


def join(uri: str, *names: str) -> str:
    """Return the URI of something below another."""
    return "/".join([uri.rstrip("/"), *names]) if is_remote(uri) else str(Path(uri, *names))


def parent(uri: str) -> str:
    """Return the URI that a run's URI is below."""
    return uri.rsplit("/", 1)[0] if is_remote(uri) else str(Path(uri).parent)


class Folder:
    """A folder of this machine as a store; keys are absolute paths."""

    def read(self, key: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        try:
            return Path(key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Replace a file: a reader finds the old one or the new one."""
        partial = self._write_aside(Path(key), content)
        partial.replace(key)
        self._sync(Path(key).parent)

    def create(self, key: str, content: bytes) -> bool:
        """Write a file if there is none of that name; whether this call made it."""
        partial = self._write_aside(Path(key), content)
        try:
            os.link(partial, key)  # unlike a rename, it fails if the name is taken
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        self._sync(Path(key).parent)
        return True

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        Path(key).unlink(missing_ok=True)

    def files(self, key: str) -> list[str]:
        """Return the paths of all files below a folder, relative to it."""
        paths = [Path(folder, name) for folder, _, names in os.walk(key, onerror=_unless_gone) for name in names]
        return sorted(str(path.relative_to(key)) for path in paths)

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders in a folder."""
        _, names, _ = next(os.walk(key, onerror=_unless_gone), (key, [], []))
        return sorted(names)

    def check(self, key: str) -> None:
        """Write to a folder once, making it if it is missing."""
        Path(key).mkdir(parents=True, exist_ok=True)
        probe = Path(key, _probe())
        probe.touch()
        probe.unlink()

    @staticmethod
    def _write_aside(file: Path, content: bytes) -> Path:
        """Write the content to disk under a temporary name of this thread, beside the file."""
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

    @staticmethod
    def _sync(folder: Path) -> None:
        """Let the names in a folder survive a loss of power."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Bucket:
    """A bucket of an object store; keys are relative to it."""

    def __init__(self, uri: str, deadline_s: int):
        self._store = _store(uri, deadline_s)

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
        import obstore

        paths = [meta["path"] for chunk in obstore.list(self._store, key or None) for meta in chunk]
        return sorted(path[len(key) :].lstrip("/") for path in paths)

    def folders(self, key: str) -> list[str]:
        """Return the names right below a prefix that have objects below them."""
        import obstore

        prefixes = obstore.list_with_delimiter(self._store, key or None)["common_prefixes"]
        return sorted(prefix.rsplit("/", 1)[-1] for prefix in prefixes)

    def check(self, key: str) -> None:
        """Write an object once, and remove it."""
        probe = f"{key}/{_probe()}" if key else _probe()
        self.write(probe, b"")
        self.delete(probe)


def _unless_gone(error: OSError) -> None:
    """Raise an error of listing a folder, unless another process removed it meanwhile, as pruning does."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _at(uri: str, deadline_s: int = DEADLINE_S) -> tuple[Folder | Bucket, str]:
    """The store of a URI, and the key of the URI in it."""
    if not is_remote(uri):
        return Folder(), uri
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return Bucket(f"{scheme}://{bucket}", deadline_s), key


def _probe() -> str:
    return f".writable-{secrets.token_hex(8)}"  # of this check alone, whoever else checks


def read(uri: str) -> bytes | None:
    """Return the whole object, or None if there is none.

    Raises:
        StorageError: it cannot be read.
    """
    with sentences(uri, "read"):
        place, key = _at(uri)
        return place.read(key)


def write(uri: str, content: bytes) -> None:
    """Write an object; it appears whole or not at all, and replaces what was there.

    Raises:
        StorageError: it cannot be written.
    """
    with sentences(uri, "written"):
        place, key = _at(uri)
        place.write(key, content)


def create(uri: str, content: bytes) -> bool:
    """Write an object if there is none of that name; whether this call made it. Of many at once, one does.

    Raises:
        StorageError: it cannot be written.
    """
    with sentences(uri, "written"):
        place, key = _at(uri)
        return place.create(key, content)


def delete(uri: str) -> None:
    """Remove an object, if it is there.

    Raises:
        StorageError: it cannot be removed.
    """
    with sentences(uri, "removed"):
        place, key = _at(uri)
        place.delete(key)


def remove_folder(uri: str) -> None:
    """Remove an empty folder; object stores have none."""
    if not is_remote(uri):
        with suppress(OSError):
            Path(uri).rmdir()


def files(uri: str) -> list[str]:
    """Return the names of all objects below a URI, relative to it, sorted.

    Raises:
        StorageError: they cannot be listed.
    """
    with sentences(uri, "listed"):
        place, key = _at(uri)
        return place.files(key)


def folders(uri: str) -> list[str]:
    """Return the names right below a URI that hold objects, sorted.

    Raises:
        StorageError: they cannot be listed.
    """
    with sentences(uri, "listed"):
        place, key = _at(uri)
        return place.folders(key)


def check(uri: str) -> None:
    """Write to a storage once, and remove what was written.

    Raises:
        StorageError: it is no folder, there is no such bucket, or this identity may not write there.
    """
    with sentences(uri, "written"):
        place, key = _at(uri, CHECK_DEADLINE_S)
        place.check(key)


def through_outage(
    act: Callable[[], T], max_outage_s: float, away: Callable[[OutageError], None] = lambda _: None
) -> T:
    """Return what `act` returns; retry it for so long while an object store is unreachable, and call `away` each time.

    Raises:
        OutageError: the store was unreachable all that time.
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


@lru_cache
def _store(bucket: str, deadline_s: int) -> ObjectStore:
    from obstore.store import from_url

    options: Any = {
        "connect_timeout": timedelta(seconds=min(5, deadline_s)),
        "timeout": timedelta(seconds=deadline_s),
        "allow_http": (endpoint(bucket) or "").startswith("http://"),  # an explicit endpoint is meant as it is written
    }
    return from_url(
        bucket,
        client_options=options,
        retry_config={"max_retries": 10, "retry_timeout": timedelta(seconds=deadline_s)},
    )
