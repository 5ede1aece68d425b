"""The copy of a run's record in an object store: brought here to read, and kept up to date while the run is written.

Nothing in here does anything where runs are kept in a folder of this machine.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainer.errors import NoSuchRunError, OutageError, StorageError
from trainer.storage import layout, store
from trainer.storage.record import Record

PUSH_EVERY_S = 5.0  # how old the copy may be
QUIET_S = 5.0  # how long the end of a run waits for the store before it says so
# The push in progress, and one that starts at the last moment: each ends with the first request that is not answered.
WAITS_S = 2.0 * store.DEADLINE_S

_scratch: set[Path] = set()


def open_record(place: str) -> Record:
    """Return the record at a place, the normalised URI or folder of a run; one in an object store is copied here.

    Raises:
        StorageError: the object store cannot be read.
    """
    if not store.is_remote(place):
        return Record(Path(place))
    scratch = Path(tempfile.mkdtemp(prefix="trainer-"))
    _scratch.add(scratch)
    record = Record(scratch / place.rsplit("/", 1)[-1], place)
    pull(record)
    return record


def find_run(target: str, runs: str) -> Record:
    """Return the record of a run given by its name in the storage `runs`, or by its own folder or URI.

    Raises:
        NoSuchRunError: the run does not exist.
        StorageError: the storage cannot be read.
    """
    own = store.normalise(target) if "/" in target or not store.is_remote(runs) else None
    named = store.join(runs, target.rstrip("/")) if "://" not in target else None
    for place in (named, own):
        if place and store.read(store.part(place, layout.CONFIG)) is not None:
            return open_record(place)
    known = run_names(runs)
    there = f"it has {', '.join(known[-8:])}" if known else "it has no runs"
    raise NoSuchRunError(f"{target} is neither a run in {runs} nor a run's folder", there)


def run_names(runs: str) -> list[str]:
    """Return the names of all runs in a storage.

    Raises:
        StorageError: it cannot be listed.
    """
    return [
        name
        for name in store.folders(runs)
        if store.read(store.part(store.join(runs, name), layout.CONFIG)) is not None
    ]


def pull(record: Record) -> None:
    """Bring the scratch folder up to the object store's state, except weights and pictures.

    Raises:
        StorageError: the object store cannot be read.
    """
    for name in layout.BROUGHT if record.remote else ():  # whatever else lies there may be of any name and size
        content = store.read(store.join(record.remote or "", name))
        if content is not None:
            file = record.file(name)
            store.write(str(file), content)
            record.mirrored[name] = _state(file)


def push(record: Record) -> None:
    """Write what changed since the last push to the object store.

    Raises:
        StorageError: the store refuses it; the scratch folder still holds everything.
    """
    for file in _files(record) if record.remote else ():
        name = file.relative_to(record.folder).as_posix()
        with suppress(FileNotFoundError):  # replaced or removed meanwhile: the next push sees it
            state = _state(file)
            if record.mirrored.get(name) != state:
                store.write(store.join(record.remote or "", name), file.read_bytes())
                record.mirrored[name] = state


def _files(record: Record) -> list[Path]:
    # Ray's own folder and files being written begin with a dot
    entries = [entry for entry in record.folder.iterdir() if not entry.name.startswith(".")]
    files = (file for entry in entries for file in (entry.iterdir() if entry.is_dir() else [entry]))
    manifest = record.file(layout.MANIFEST)
    return sorted(files, key=lambda file: (file == manifest, file))  # the manifest only when everything else is there


def _state(file: Path) -> tuple[int, int]:
    return file.stat().st_mtime_ns, file.stat().st_size


def keep_scratch(record: Record) -> Path:
    """Return the scratch folder, which from now on stays when the process ends."""
    _scratch.discard(record.folder.parent)
    return record.folder


def discard_scratch() -> None:
    """Remove the scratch folders of this process; registered to run where a process ends in the usual way."""
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)


atexit.register(discard_scratch)


class Mirror:
    """A thread that pushes what changed in a record to its object store, every few seconds and at the end.

    `taken_by` returns who owns the run now instead of this process: then the copy is left alone.
    """

    def __init__(self, record: Record, taken_by: Callable[[], str | None] = lambda: None):
        self._record = record
        self._taken_by = taken_by
        self._over = threading.Event()
        self._failure: StorageError | None = None
        self._max_outage_s = 0.0
        self._thread = threading.Thread(target=self._follow, name="mirror-record", daemon=True)
        if record.remote:
            self._thread.start()

    def finish(self, patience_s: float | None = None, max_outage_s: float = 0.0) -> None:
        """Push for the last time, and wait for it: at most `patience_s`, or through an outage of `max_outage_s`.

        Without `patience_s`, an event says how long that may take if the store does not answer soon.

        Raises:
            StorageError: the store did not take everything; says where the record is kept instead.
        """
        self._max_outage_s = max_outage_s
        self._over.set()
        if not self._record.remote:
            return
        self._thread.join(QUIET_S if patience_s is None else patience_s)
        if self._thread.is_alive():
            if patience_s is None:
                self._wait_for_store()
            else:
                self._failure = StorageError(
                    f"storage: {self._record.remote} did not take the record in {patience_s:g} s"
                )
        if self._failure is not None:
            kept = keep_scratch(self._record)
            problem = f"{self._failure.problem}. The record is kept in {kept}"
            raise StorageError(problem, self._failure.fix, retry=self._failure.retry)

    def _wait_for_store(self) -> None:
        away = str(self._failure or f"storage: {self._record.remote} has not taken the record in {QUIET_S:g} s.")
        with suppress(StorageError):  # a full disk: nobody hears of it
            waits_s = WAITS_S + self._max_outage_s
            self._record.add_event({"event": "storage_away", "message": away, "waits_s": waits_s})
        self._thread.join()
        if self._failure is None:
            with suppress(StorageError):
                self._record.add_event({"event": "storage_back"})
            self._push(warn=False)  # the two events

    def _follow(self) -> None:
        while not self._over.wait(PUSH_EVERY_S):
            self._push(warn=self._failure is None)
        until = time.monotonic() + self._max_outage_s
        self._push(warn=False)
        while isinstance(self._failure, OutageError) and time.monotonic() < until:
            time.sleep(store.RETRY_EVERY_S)
            self._push(warn=False)

    def _push(self, warn: bool) -> None:
        self._failure = self._try_to_push()
        if warn and self._failure is not None:
            message = f"{self._failure} Training continues, and the record is pushed again later."
            with suppress(StorageError):  # a full disk: the end of the run says so
                self._record.add_event({"event": "warning", "message": message})

    def _try_to_push(self) -> StorageError | None:
        try:
            if self._taken_by() is None:
                push(self._record)
        except StorageError as error:
            return error
        except OSError as error:
            return StorageError(f"storage: {self._record.folder} cannot be read ({error.strerror or error})")
        return None
