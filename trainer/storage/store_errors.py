"""What the errors of object stores and disks mean: a problem and a fix each, and whether retrying can help."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.errors import OutageError, StorageError

ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
FULL = (errno.ENOSPC, errno.EDQUOT)
METADATA_SERVER = "169.254.169.254"
CREDENTIALS = (
    "check the credentials in the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, "
    "AZURE_STORAGE_ACCOUNT_NAME ...) or the identity of this machine or pod"
)
# Codes of S3 and Azure; obstore has no exceptions for them. S3 answers 400 to an expired token.
EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "Signature not valid in the specified time frame")
CLOCK = ("RequestTimeTooSkewed", "RequestExpired")


def endpoint(uri: str) -> str | None:
    """Return the server that the environment names for stores of this kind, instead of the cloud's own."""
    return os.environ.get(ENDPOINTS[uri.partition("://")[0]])


@contextmanager
def sentences(uri: str, verb: str) -> Iterator[None]:
    """Raise every error of a storage as an error with the URI and what to do; `verb` is what failed: read, written.

    Raises:
        OutageError: an object store is unreachable.
        StorageError: it refuses, or a disk is full.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if "://" in uri:
            from obstore.exceptions import BaseError

            if isinstance(error, OSError | BaseError):
                kind = StorageError if _is_refusal(error) else OutageError
                reason, fix = _reason_and_fix(error, endpoint(uri))
                raise kind(f"storage: {uri} cannot be {verb}: {reason}", fix) from None
        elif isinstance(error, OSError):
            fix = "give a folder that you may write with --storage" if verb == "written" else "give another --storage"
            if error.errno in FULL:
                fix = "free space on that disk"
            raise StorageError(f"storage: {uri} cannot be {verb} ({error.strerror or error})", fix) from None
        raise


def _is_refusal(error: Exception) -> bool:
    """Whether retrying is of no use."""
    text = str(error)
    hopeless = METADATA_SERVER in text or any(word in text for word in (*EXPIRED, *CLOCK))
    return hopeless or _is_forbidden(error) or _is_absent(error)


def _is_forbidden(error: Exception) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    by_type = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
    return by_type or _status(error) in ("401", "403")


def _is_absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _status(error) == "404"


def _status(error: Exception) -> str | None:
    """The HTTP status of a failed listing, whose errors obstore does not distinguish by type."""
    match = re.search(r"returned non-2xx status code: (\d+)", str(error))
    return match[1] if match else None


def _reason_and_fix(error: Exception, server: str | None) -> tuple[str, str]:
    text = str(error)
    if METADATA_SERVER in text:  # asked last, when nothing else gave credentials
        return "no credentials were found", CREDENTIALS
    if any(word in text for word in EXPIRED):
        return "the credentials have expired", "renew them and start the run again: it resumes"
    if any(word in text for word in CLOCK):
        return "the store refuses requests whose time differs from its own", "set this machine's clock"
    if _is_forbidden(error):
        return "the store refuses this identity", CREDENTIALS
    if _is_absent(error):
        return "there is no such bucket", "create it, or correct the name"
    where = f" at {server}" if server else ""
    return f"the store{where} is unreachable ({_first_line(text)})", "check endpoint, region and network"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
