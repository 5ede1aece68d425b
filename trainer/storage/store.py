"""Where runs are kept: a folder, or a bucket of S3, Google or Azure. Everything is named by its URI.

What fails is an error with its fix.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from trainer.errors import OutageError, StorageError
from trainer.storage.bucket import ENDPOINTS, Bucket, passed_over
from trainer.storage.folder import Folder, check_parts
from trainer.storage.store_errors import CREDENTIALS, NO_CONDITIONAL_WRITES, sentences

SCHEMES = tuple(ENDPOINTS)
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")  # of all three clouds; each has narrower rules of its own
LIKE_A_URI = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]+)(?::|(?<=s3|gs|az)//)"
)  # s3:/bucket, s3//bucket; a drive letter is none
# As other tools call the same stores.
OTHER_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "wasbs": "az", "azure": "az"}
NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
DEADLINE_S = 60  # of one request with all its retries
RETRY_EVERY_S = 2.0  # during an outage
CHECK_DEADLINE_S = 10  # of the check before a run, which a person waits for


T = TypeVar("T")


def normalise(storage: str) -> str:
    """Return a storage as it is used everywhere: an absolute folder, or a bucket's URI, each place in one spelling.

    Raises:
        StorageError: it is neither, or a URI with something in it that no place has.
    """
    if not storage.strip():
        raise StorageError("storage: it is empty", "give a folder such as runs, or a URI such as s3://bucket/prefix")
    if NOT_IN_A_NAME.search(storage):
        raise StorageError(f"storage: {storage!a} has control characters, or bytes that are not UTF-8", "correct it")
    scheme, separator, rest = storage.partition("://")
    scheme = scheme.lower()
    if not separator:
        return _folder(storage)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise StorageError(f"storage: {storage} is no absolute path", f"write it as file:///{rest}, or as {rest}")
        return _folder(f"/{unquote(path)}")
    shown = re.sub(r"//[^/]*@", "//***@", storage)
    if scheme not in SCHEMES:
        known = ", ".join(SCHEMES)
        instead = f" ({OTHER_SCHEMES[scheme]} for {scheme})" if scheme in OTHER_SCHEMES else ""
        raise StorageError(
            f"storage: {shown} has an unknown scheme", f"give a folder, or a URI of file, {known}{instead}"
        )
    return _bucket_uri(scheme, rest, shown)


def _bucket_uri(scheme: str, rest: str, shown: str) -> str:
    bucket, *names = rest.split("/")
    if not bucket:
        raise StorageError(f"storage: {shown} names no bucket", f"write it as {scheme}://bucket/prefix")
    if "@" in bucket:
        raise StorageError(f"storage: {shown} has credentials in it", f"give them otherwise: {CREDENTIALS}")
    if not BUCKET.fullmatch(bucket):
        raise StorageError(
            f"storage: {shown} names the bucket {bucket}, which is not a valid name",
            f"write it as {scheme}://bucket/prefix; a server is named by {ENDPOINTS[scheme][-1]}",
        )
    if {".", ".."} & set(names):
        raise StorageError(f"storage: {shown} has . or .. in it, which buckets do not resolve", "write it without")
    return "/".join([f"{scheme}://{bucket}", *filter(None, names)])


def _folder(path: str) -> str:
    if match := LIKE_A_URI.match(path):
        raise StorageError(
            f"storage: {path} looks like a URI but is not one",
            f"write {match[1]}://..., or ./{path} for a folder of that name",
        )
    try:
        return os.path.normpath(Path(path).expanduser().absolute())
    except RuntimeError:
        raise StorageError(f"storage: {path} is in a home folder, and there is none", "give the whole path") from None
    except FileNotFoundError:
        raise StorageError(
            f"storage: {path}: the working folder was removed", "change to another, or give the whole path"
        ) from None


def is_remote(uri: str) -> bool:
    """Whether a normalised URI is in an object store, not a folder of this machine."""
    return "://" in uri


def join(uri: str, *names: str) -> str:
    """Return the URI of something below another."""
    return "/".join([uri.rstrip("/"), *names]) if is_remote(uri) else str(Path(uri, *names))


def part(uri: str, *names: str) -> str:
    """Return the URI of something below a run, or another folder that others may write to: no link leads out of it.

    Raises:
        UnusableNameError: one of its folders, or itself, is a symbolic link.
    """
    if not is_remote(uri):
        check_parts(uri, names)
    return join(uri, *names)


def parent(uri: str) -> str:
    """Return the URI that a run's URI is below."""
    return uri.rsplit("/", 1)[0] if is_remote(uri) else str(Path(uri).parent)


def _at(uri: str, deadline_s: int = DEADLINE_S) -> tuple[Folder | Bucket, str]:
    """The store of a URI, and the key of the URI in it."""
    if not is_remote(uri):
        return Folder(), uri
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return Bucket(f"{scheme}://{bucket}", deadline_s), key


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


def pass_over(warning: str) -> None:
    """Note that something in a storage is left out, and why; `take_passed_over` returns it."""
    passed_over[warning] = None


def take_passed_over() -> list[str]:
    """Return a sentence for each thing that this process has found in storages and left out since the last call."""
    found = list(passed_over)
    passed_over.clear()
    return found


def check(uri: str) -> None:
    """Try everything that a run relies on, on an object that is then removed: also that it cannot be created twice.

    Raises:
        StorageError: it is not a folder, the bucket does not exist, this identity lacks a right, or the store behaves
            differently from what a run needs.
    """
    with sentences(uri, "written"):
        place, key = _at(uri, CHECK_DEADLINE_S)
        place.prepare(key)
    name = f".writable-{secrets.token_hex(8)}"  # unique: other processes may check at the same time
    folder = f"{key}/{name}" if key else name
    written = [f"{folder}/created", f"{folder}/replaced"]
    try:
        with sentences(uri, "written"):
            place.write(written[1], b"")
        try:
            _check_abilities(uri, place, folder, *written)
        except StorageError:
            with suppress(StorageError):  # the first error says more
                _remove(uri, place, written)
            raise
        _remove(uri, place, written)
    finally:
        remove_folder(join(uri, name))


def _check_abilities(uri: str, place: Folder | Bucket, folder: str, created: str, replaced: str) -> None:
    content = secrets.token_bytes(16)
    with sentences(uri, "written"):
        place.write(replaced, content)
    _check_creation(uri, place, created)
    with sentences(uri, "read"):
        returned = place.read(replaced)
    if returned != content:
        raise StorageError(f"storage: {uri} returns other bytes than were written just before", NO_CONDITIONAL_WRITES)
    with sentences(uri, "listed"):
        listed = place.files(folder)
    if listed != ["created", "replaced"]:
        raise StorageError(f"storage: {uri} does not list what was written just before", NO_CONDITIONAL_WRITES)


def _remove(uri: str, place: Folder | Bucket, keys: list[str]) -> None:
    with sentences(uri, "removed"):
        for key in keys:
            place.delete(key)


def _check_creation(uri: str, place: Folder | Bucket, probe: str) -> None:
    with sentences(uri, "created"):
        made = [place.create(probe, content) for content in (b"first", b"second")]
    if made != [True, False]:
        raise StorageError(
            f"storage: {uri} creates one object twice: it ignores conditional writes",
            NO_CONDITIONAL_WRITES,
        )


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
