"""What the errors of object stores and disks mean: a sentence each, and whether asking again can help."""

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
# Codes of S3 and Azure. S3 answers 400 to an expired token, as to a request it cannot read.
EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "Signature not valid in the specified time frame")
CLOCK = ("RequestTimeTooSkewed", "RequestExpired")


def endpoint(uri: str) -> str | None:
    """The server that the environment names for stores of this kind, instead of the cloud's own."""
    return os.environ.get(ENDPOINTS[uri.partition("://")[0]])


@contextmanager
def sentences(uri: str, verb: str) -> Iterator[None]:
    """Every error of a storage as a sentence with the URI and what to do.

    Raises:
        OutageError: an object store does not answer.
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
                raise kind(f"storage: {uri} cannot be {verb}: {_why(error, endpoint(uri))}.") from None
        elif isinstance(error, OSError):
            reason = error.strerror or error
            fix = "give a folder you may write by --storage" if verb == "written" else "give another by --storage"
            fix = "free space on that disk" if error.errno in FULL else fix
            raise StorageError(f"storage: {uri} cannot be {verb} ({reason}); {fix}.") from None
        raise


def _is_refusal(error: Exception) -> bool:
    """Whether asking again is of no use."""
    text = str(error)
    hopeless = METADATA_SERVER in text or any(word in text for word in (*EXPIRED, *CLOCK))
    return hopeless or _is_forbidden(error) or _is_absent(error)


def _is_forbidden(error: Exception) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    by_type = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
    return by_type or _answered(error) in ("401", "403")


def _is_absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _answered(error) == "404"


def _answered(error: Exception) -> str | None:
    """The store's answer to a listing, whose errors obstore does not tell apart by type."""
    found = re.search(r"returned non-2xx status code: (\d+)", str(error))
    return found[1] if found else None


def _why(error: Exception, at: str | None) -> str:
    text = str(error)
    if METADATA_SERVER in text:  # asked last, when nothing else gave credentials
        return f"no credentials were found; {CREDENTIALS}"
    if any(word in text for word in EXPIRED):
        return "the credentials have expired; renew them, and start the run again: it continues"
    if any(word in text for word in CLOCK):
        return "the store refuses requests of another time; set this machine's clock"
    if _is_forbidden(error):
        return f"the store refuses this identity; {CREDENTIALS}"
    if _is_absent(error):
        return "there is no such bucket; make it first, or correct the name"
    where = f" at {at}" if at else ""
    return f"the store{where} does not answer as it should ({_first_line(text)}); check endpoint, region and network"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
