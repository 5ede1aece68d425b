"""One writer per run: the process that trains a run holds its lease, and renews it.

A claim is an object ``<run>/lease/<number>.json``, made by a conditional create: of many at once one succeeds. The
number is the fence in its checkpoints. The owner keeps ``<number>.alive`` fresh and leaves ``<number>.released`` at the
end. Only creating is conditional, since folders have no conditional update.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from trainer.errors import ConflictError, StorageError
from trainer.storage import layout, store
from trainer.storage.parsing import from_json

RENEW_EVERY_S = 5.0
RELEASE_PATIENCE_S = 1.0
EXPIRES_AFTER_S = 20.0  # without a sign of life; clocks of two machines may differ by less than this
WRITTEN_WITHIN_S = 2.0  # a claim, where files appear before their content; it is empty until then
AHEAD_S = 3600.0  # no clock is that wrong: a later sign of life is damaged, and ignored
NAME = re.compile(r"(0{0,5}[1-9][0-9]{0,11})\.(json|alive|released)")


class Lease:
    """A claim on the run at the URI `run`, for as long as the context lasts; a thread renews it.

    If another process takes over, `taken_by` names it, and `lost` is called once, from that thread.

    Raises:
        ConflictError: another process trains this run; names it.
        StorageError: the storage is unreachable.
    """

    def __init__(self, run: str, lost: Callable[[], None]):
        self.run = run
        self._lost = lost
        self.fence = _claim(run)
        self.taken_by: str | None = None
        self._over = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._keep_alive, name="renew-lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the run to the next process at once; if the storage is unreachable now, the lease expires."""
        self._over.set()
        self._thread.join(RELEASE_PATIENCE_S)
        if self.taken_by is None and not self._thread.is_alive():
            with suppress(StorageError):
                store.write(_object(self.run, self.fence, "released"), b"")

    def _keep_alive(self) -> None:
        while not self._over.wait(RENEW_EVERY_S):
            try:
                self._renew()
                taken = self.poll()
            except StorageError:  # others cannot reach it either, and who can waits until the lease expires
                continue
            if taken is not None:
                self._lost()
                return

    def poll(self) -> str | None:
        """Ask the storage who has taken over; None if nobody has.

        Raises:
            StorageError: it is unreachable.
        """
        taken = newest_claim(self.run)
        if taken > self.fence:
            self.taken_by = _owner(self.run, taken)
        return self.taken_by

    def _renew(self) -> None:
        store.write(_object(self.run, self.fence, "alive"), json.dumps({"time": time.time()}).encode())


def newest_claim(run: str) -> int:
    """Return the number of the last claim on a run; 0 if there was none.

    Raises:
        StorageError: the storage is unreachable.
    """
    return max(_claims(run), default=0)


def is_held(run: str) -> bool:
    """Return whether a process trains a run, as far as its lease tells.

    Raises:
        StorageError: the storage is unreachable.
    """
    claims = _claims(run)
    last = max(claims, default=0)
    return last > 0 and "released" not in claims[last] and _lives(run, last)


def _claims(run: str) -> dict[int, set[str]]:
    claims: dict[int, set[str]] = {}
    for name in store.files(store.part(run, layout.LEASE)):
        if (match := NAME.fullmatch(name)) and len(match[1]) >= 6:  # any other is not of a lease
            claims.setdefault(int(match[1]), set()).add(match[2])
    return {number: kinds for number, kinds in claims.items() if "json" in kinds}


def _claim(run: str) -> int:
    claims = _claims(run)
    last = max(claims, default=0)
    if last and "released" not in claims[last] and _lives(run, last):
        raise ConflictError(
            f"{_owner(run, last)} is training {run}",
            f"wait for it or stop it (if it is dead, its lease expires after {EXPIRES_AFTER_S:.0f} s)",
            retry=True,
        )
    me = psutil.Process()
    owner = {"host": socket.gethostname(), "pid": me.pid, "created": me.create_time()}
    owner |= {"time": time.time(), "token": secrets.token_hex(8)}  # the token: no two claims are the same bytes
    if not store.create(_object(run, last + 1, "json"), json.dumps(owner).encode()):
        raise ConflictError(
            f"{_owner(run, last + 1)} has just started to train {run}", "wait for it or stop it", retry=True
        )
    return last + 1


def _lives(run: str, number: int) -> bool:
    waited_until = time.monotonic() + WRITTEN_WITHIN_S
    while store.read(_object(run, number, "json")) == b"" and time.monotonic() < waited_until:
        time.sleep(0.02)
    owner = _load(run, number, "json")
    if owner.get("host") == socket.gethostname() and not _is_running(owner):
        return False
    last_sign = _load(run, number, "alive").get("time", owner.get("time"))  # at first there is the claim alone
    return isinstance(last_sign, float) and -AHEAD_S < time.time() - last_sign < EXPIRES_AFTER_S


def _is_running(owner: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(owner["pid"])
        same = abs(process.create_time() - owner["created"]) < 2.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (KeyError, TypeError, ValueError):  # a damaged claim says nothing of it: then the signs of life count
        return True


def _owner(run: str, number: int) -> str:
    owner = _load(run, number, "json")
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"


def _load(run: str, number: int, kind: str) -> dict[str, Any]:
    try:
        content = from_json(store.read(_object(run, number, kind)) or b"{}")
    except ValueError:  # cut by a full disk: says nothing
        return {}
    return content if isinstance(content, dict) else {}


def _object(run: str, number: int, kind: str) -> str:
    return store.part(run, layout.LEASE, f"{number:06}.{kind}")


def is_mine(run: str, fence: int) -> bool:
    """Whether nobody has claimed a run since the claim `fence`; a writer asks before it commits.

    Raises:
        StorageError: the storage is unreachable.
    """
    return newest_claim(run) == fence
