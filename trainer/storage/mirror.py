"""Keeps the copy of a run's record in an object store up to date; nothing to do where runs are kept in a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from trainer.errors import OutageError, StorageError
from trainer.storage import store
from trainer.storage.record import Record

PUSH_EVERY_S = 5.0  # how old the copy may be
QUIET_S = 5.0  # how long the end of a run waits for the store without saying so
# The push that is under way, and one that begins at the last moment: each is over with the first request that is not
# answered.
WAITS_S = 2.0 * store.DEADLINE_S


class Pusher:
    """A thread that puts what changed in a record into its object store, every few seconds and at the end.

    `taken_by` says who has the run now instead of this process: then its record is left alone.
    """

    def __init__(self, record: Record, taken_by: Callable[[], str | None] = lambda: None):
        self._record, self._taken_by = record, taken_by
        self._over = threading.Event()
        self._failure: StorageError | None = None
        self._max_outage_s = 0.0
        self._thread = threading.Thread(target=self._follow, name="push-record", daemon=True)
        if record.remote:
            self._thread.start()

    def finish(self, patience_s: float | None = None, max_outage_s: float = 0.0) -> None:
        """Push for the last time, and wait for it: at most `patience_s`, or through an outage of `max_outage_s`.

        Without an answer it is said how long that may take.

        Raises:
            StorageError: the store did not take all; says where the record is kept instead.
        """
        self._max_outage_s = max_outage_s
        self._over.set()
        if not self._record.remote:
            return
        self._thread.join(QUIET_S if patience_s is None else patience_s)
        if self._thread.is_alive() and patience_s is None:
            self._wait_for_store()
        elif self._thread.is_alive():
            self._failure = StorageError(f"storage: {self._record.remote} did not take the record in {patience_s:g} s.")
        if self._failure is not None:
            raise StorageError(f"{self._failure} The record is kept in {self._record.keep()}.")

    def _wait_for_store(self) -> None:
        away = str(self._failure or f"storage: {self._record.remote} has not taken the record in {QUIET_S:g} s.")
        with suppress(StorageError):  # a full disk: nobody hears of it
            self._record.add_event("storage_away", message=away, waits_s=WAITS_S + self._max_outage_s)
        self._thread.join()
        if self._failure is None:
            with suppress(StorageError):
                self._record.add_event("storage_back")
            self._push(warn=False)  # what was said meanwhile

    def _follow(self) -> None:
        while not self._over.wait(PUSH_EVERY_S):
            self._push(warn=self._failure is None)
        until = time.monotonic() + self._max_outage_s
        self._push(warn=False)
        while isinstance(self._failure, OutageError) and time.monotonic() < until:
            time.sleep(store.RETRY_EVERY_S)
            self._push(warn=False)

    def _push(self, warn: bool) -> None:
        self._failure = self._tried()
        if warn and self._failure is not None:
            with suppress(StorageError):  # a full disk: the end of the run says so
                self._record.add_event("warning", message=f"{self._failure} Training goes on; this is tried again.")

    def _tried(self) -> StorageError | None:
        try:
            if self._taken_by() is None:
                self._record.push()
        except StorageError as error:
            return error
        except OSError as error:
            return StorageError(f"storage: {self._record.folder} cannot be read ({error.strerror or error}).")
        return None
