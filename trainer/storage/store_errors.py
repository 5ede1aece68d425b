"""What the errors of object stores and disks mean: a problem and a fix each, and whether retrying can help.

The client's exceptions have few types and no fields; what it knows of a cause is in their text, in the words of its
libraries (hyper and rustls), of S3 and of Azure.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from trainer.errors import OutageError, StorageError, UnusableNameError
from trainer.storage import identity
from trainer.storage.bucket import REMOVE, endpoint, has_profiles, proxy_of, unusable_name
from trainer.storage.folder import UNSUPPORTED, file_system

FULL = (errno.ENOSPC, errno.EDQUOT)
CREDENTIALS = (
    "check the credentials in the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, "
    "AZURE_STORAGE_ACCOUNT_NAME ...) or the identity of this machine or pod"
)
NO_CONDITIONAL_WRITES = (
    "use a store with strong consistency and conditional writes (If-None-Match): those of AWS, Google and Azure, and "
    "recent releases of MinIO, Ceph and others, have them"
)
# Codes of S3 and Azure, for which the client has no exceptions, each with reason and fix. Retrying helps with none.
# S3 answers 400 to an expired token.
REFUSALS = {
    (identity.METADATA_SERVER,): ("no credentials were found", CREDENTIALS),  # asked last, when nothing else gave any
    ("ExpiredToken", "TokenRefreshRequired", "Signature not valid in the specified time frame"): (
        "the credentials have expired",
        "renew them and start the run again: it resumes",
    ),
    ("RequestTimeTooSkewed", "RequestExpired"): (
        "the store refuses requests whose time differs from its own",
        "set this machine's clock",
    ),
    ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint", "configured region"): (
        "the bucket is in another region",
        "set AWS_REGION to the bucket's region",
    ),
    ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AuthenticationFailed"): (
        "the store does not accept these keys",
        CREDENTIALS,
    ),
}
# What hyper, rustls and the system call a cause, and what it is in plain words.
CAUSES = {
    "dns error": ("its host has no address", "correct it, or check DNS"),
    "ConnectionRefused": ("connection refused", "check that it runs, its port, and the network between"),
    "NotValidForName": ("its certificate is for another host", "use the name that the certificate has"),
    "certificate expired": ("its certificate has expired", "renew it, or set this machine's clock"),
    "InvalidCertificate(Expired": ("its certificate has expired", "renew it, or set this machine's clock"),
    "UnknownIssuer": (
        "its certificate is signed by an authority that this machine does not know",
        "name a file with that authority's certificate in SSL_CERT_FILE",
    ),
    "InvalidCertificate": ("its certificate is not valid", "replace it"),
    "InvalidMessage": ("it does not speak TLS", "write its endpoint as http://, or correct the port"),
    "unsuccessful tunnel": ("the proxy refuses to connect to it", "correct the proxy, or name the host in NO_PROXY"),
    "NetworkUnreachable": ("there is no network", "check the network"),
    "HostUnreachable": ("there is no way to its host", "check the network"),
    "ConnectionReset": ("it closed the connection", "check its port, and whether it wants https://"),
    "TimedOut": ("no answer in time", "check that it runs, and firewalls and network policies between"),
}
# Kinds of failure that a proxy has, not the store behind it.
OF_THE_PROXY = ("dns error", "ConnectionRefused", "unsuccessful tunnel", "TimedOut", "ConnectionReset")


@contextmanager
def sentences(uri: str, verb: str) -> Iterator[None]:
    """Raise every error of a storage as an error with the URI and what to do.

    `verb` is what failed: read, written, created (written if there is none), listed or removed.

    Raises:
        OutageError: an object store is unreachable.
        UnusableNameError: it holds an object with a name that cannot be used.
        StorageError: it refuses, or a disk is full.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if "://" in uri:
            from obstore.exceptions import BaseError, InvalidPathError

            if isinstance(error, InvalidPathError | ValueError):  # the client's word for names that it refuses
                raise UnusableNameError(
                    f"storage: {uri} cannot be {verb}: there is {unusable_name(error)}", REMOVE
                ) from None
            if isinstance(error, OSError | BaseError):
                if found := _without_token(str(error), uri):
                    kind, reason, fix = found
                else:
                    kind = StorageError if _is_refusal(error, verb) else OutageError
                    reason, fix = _reason_and_fix(error, uri, verb)
                raise kind(f"storage: {uri} cannot be {verb}: {reason}", fix) from None
        elif isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise StorageError(
                f"storage: {uri} cannot be {verb} ({reason})", _fix_of_folder(error, uri, verb)
            ) from None
        raise


def _fix_of_folder(error: OSError, folder: str, verb: str) -> str:
    if error.errno in FULL:
        return "free space on that disk"
    if verb == "read" or verb == "listed":
        return "give another --storage"
    kind, _ = file_system(folder)
    if kind and error.errno in UNSUPPORTED and os.access(folder, os.W_OK):
        return f"its file system, {kind}, lacks what a run needs: give a folder on another with --storage"
    return "give a folder that you may write with --storage"


def _without_token(text: str, uri: str) -> tuple[type[StorageError], str, str] | None:
    """What an error means that comes from the cloud's token server: the store itself was never asked."""
    if file := identity.missing_token_file(text, uri):
        return StorageError, f"{file} cannot be read, so there is no token", identity.step(uri)
    denial = identity.denial(text, uri)
    if denial is None:
        return None
    server = f"the token server at {denial.server}"
    if denial.is_final:
        return StorageError, f"{server} refuses this identity ({denial.status}: {denial.words})", identity.step(uri)
    if denial.status is not None:
        return OutageError, f"{server} answers {denial.status} ({denial.words})", "try again later"
    return OutageError, *_why_unreachable(text, None, server)


def _is_refusal(error: Exception, verb: str) -> bool:
    """Whether retrying is of no use."""
    by_code = _documented(error) is not None or _is_forbidden(error) or _is_absent(error)
    return by_code or (verb == "created" and _lacks_conditional_writes(error))


def _documented(error: Exception) -> tuple[str, str] | None:
    text = str(error)
    return next((meaning for codes, meaning in REFUSALS.items() if any(code in text for code in codes)), None)


def _lacks_conditional_writes(error: Exception) -> bool:
    """Whether a store rejects the request itself: an unconditional write has succeeded just before."""
    return _status(error) in ("400", "405", "411", "501") or "NotImplemented" in _answer(error)


def _is_forbidden(error: Exception) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    by_type = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
    return by_type or _status(error) in ("401", "403")


def _is_absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _status(error) == "404"


def _status(error: Exception) -> str | None:
    """The HTTP status of an answer, as far as the text tells it."""
    match = re.search(r"returned non-2xx status code: (\d+)", str(error))
    return match[1] if match else None


def _answer(error: Exception) -> str:
    """Status and code of the store's answer, such as ``403 AccessDenied``."""
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    return " ".join(filter(None, [_status(error), code and code[1]]))


def _reason_and_fix(error: Exception, uri: str, verb: str) -> tuple[str, str]:
    answer = _answer(error)
    in_brackets = f" ({answer})" if answer else ""
    if documented := _documented(error):
        reason, fix = documented
        return f"{reason}{in_brackets}", f"{fix}{_hint_of_profiles(uri)}"
    if _is_forbidden(error):
        right = {"read": "read", "listed": "list", "removed": "delete"}.get(verb, "write")
        return f"access denied{in_brackets}", f"let this identity {right} objects there, or {CREDENTIALS}"
    if _is_absent(error):
        return "the bucket does not exist", "create it, or correct the name"
    if verb == "created" and _lacks_conditional_writes(error):
        return f"the store has no conditional writes{in_brackets}", NO_CONDITIONAL_WRITES
    server = endpoint(uri)
    where = f" at {server}" if server else ""
    if answer:
        return f"the store{where} answers {answer}", "look into the store's own log"
    return _why_unreachable(str(error), uri, f"the store{where}")


def _why_unreachable(text: str, uri: str | None, server: str) -> tuple[str, str]:
    """Reason and fix; `uri` is of the store behind the proxy that the environment may name."""
    packed = re.sub(r"\s", "", text)  # the client's own notes are spread over lines
    kind = next((word for word in CAUSES if word in text or word in packed), None)
    if kind is None:
        return f"{server} is unreachable ({_first_line(text)})", "check endpoint, region and network"
    reason, fix = CAUSES[kind]
    proxy = proxy_of(uri) if uri else None
    if proxy and kind in OF_THE_PROXY:
        return (
            f"the proxy {proxy[1]} of {proxy[0]} is unreachable: {reason}",
            "correct it, or name the host in NO_PROXY",
        )
    return f"{server} is unreachable: {reason}", fix


def _hint_of_profiles(uri: str) -> str:
    if uri.startswith("s3://") and has_profiles() and find_spec("boto3") is None:
        return "; profiles in ~/.aws are read where boto3 is installed: pip install boto3"
    return ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
