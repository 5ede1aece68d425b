"""What a run's processes print, kept beside its record while they live: the end of each file, by attempt.

``logs/attempt-<n>/worker-<rank>.out`` and ``.err`` are a worker's, ``driver.log`` is the driver's on a cluster.
Ray writes the output of its processes to files on their node, which are gone with it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from trainer.errors import NoSuchRunError, StorageError
from trainer.storage import layout, store

MOST_BYTES = 2**20  # of each file, its end
MOST_ATTEMPTS = 20  # the newest
WRITE_EVERY_S = 10.0  # so much is lost if a node vanishes
LAST_WRITE_S = 3.0  # how long the end of a process waits for the store
MAC_GETPATH, MAC_MAXPATHLEN = 50, 1024  # F_GETPATH of macOS, which Python has no name for before 3.13


def own_outputs(**names: int) -> dict[str, Path]:
    """Return the files that descriptors of this process write to, by the names given; terminals and pipes are none."""
    found = {}
    for name, descriptor in names.items():
        with suppress(OSError):
            if S_ISREG(os.fstat(descriptor).st_mode):
                found[name] = _path_of(descriptor)
    return found


def _path_of(descriptor: int) -> Path:
    if sys.platform == "darwin":
        import fcntl

        raw = fcntl.fcntl(descriptor, MAC_GETPATH, bytes(MAC_MAXPATHLEN))
        return Path(os.fsdecode(raw.rstrip(b"\0")))
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def folder(run: str, attempt: int) -> str:
    """Return the URI of an attempt's logs."""
    return store.part(run, layout.LOGS, f"attempt-{attempt}")


def keep(files: Mapping[str, Path], place: str) -> None:
    """Write the end of each file to the folder `place`, under its name; what cannot be read or written is left out."""
    for name, file in files.items():
        with suppress(OSError, StorageError):
            if content := end_of(file):
                store.write(store.part(place, name), content)


def end_of(file: Path) -> bytes:
    """Return the last MOST_BYTES of a file, from the beginning of a line."""
    with file.open("rb") as lines:
        size = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, size - MOST_BYTES))
        content = lines.read()
    return content if size <= MOST_BYTES else content[content.find(b"\n") + 1 :]


class Keeper:
    """A thread that keeps the ends of this process's output files in a run's logs, while it runs and at its end.

    `files` has their names in the logs. The one keeper of an attempt that `prunes` removes the logs of old attempts.
    """

    def __init__(self, run: str, attempt: int, files: Mapping[str, Path], prunes: bool = False):
        self._run = run
        self._attempt = attempt
        self._files = dict(files)
        self._prunes = prunes
        self._sizes: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="keep-logs", daemon=True)

    def __enter__(self) -> Keeper:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Print the traceback of what ended the process, and keep what was printed last.

        A store that does not answer is not waited for.
        """
        if error is not None:
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or none
                stream.flush()
        self._over.set()
        self._thread.join(LAST_WRITE_S)

    def _follow(self) -> None:
        if self._prunes:
            with suppress(StorageError):
                prune(self._run, self._attempt)
        while not self._over.wait(WRITE_EVERY_S):
            self._keep()
        self._keep()

    def _keep(self) -> None:
        grown = {}
        for name, file in self._files.items():
            with suppress(OSError):
                if (size := file.stat().st_size) != self._sizes.get(name, 0):
                    self._sizes[name] = size
                    grown[name] = file
        keep(grown, folder(self._run, self._attempt))


def prune(run: str, newest: int) -> None:
    """Remove the logs of attempts that are older than the MOST_ATTEMPTS up to `newest`.

    Raises:
        StorageError: the storage cannot be read or written.
    """
    for attempt in attempts(run):
        if attempt <= newest - MOST_ATTEMPTS:
            place = folder(run, attempt)
            for name in store.files(place):
                store.delete(store.part(place, name))
            store.remove_folder(place)


def lines(run: str, process: str, attempt: int | None = None) -> list[str]:
    """Return what a process of a run printed last: ``driver`` or ``worker-<rank>``; by default of its newest attempt.

    Raises:
        NoSuchRunError: no such output is kept.
        StorageError: the storage cannot be read.
    """
    kept = {
        number: store.files(folder(run, number)) for number in attempts(run) if attempt is None or number == attempt
    }
    for number in sorted(kept, reverse=True):
        names = [name for name in kept[number] if name.rpartition(".")[0] == process]
        contents = [store.read(store.part(folder(run, number), name)) or b"" for name in names]
        if names:
            return [line for content in contents for line in content.decode(errors="replace").splitlines()]
    known = [f"attempt {number}: {', '.join(_processes(names))}" for number, names in kept.items()]
    of = "" if attempt is None else f" of attempt {attempt}"
    raise NoSuchRunError(
        f"{run} has no output{of} of {process.replace('-', ' ')}",
        f"it has that of {'; '.join(known)}" if known else "a process that printed nothing has none",
    )


def _processes(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[0].replace("-", " ") for name in names})


def attempts(run: str) -> list[int]:
    """Return the attempts of a run that have logs, oldest first.

    Raises:
        StorageError: the storage cannot be listed.
    """
    found = (re.fullmatch(r"attempt-([0-9]{1,9})", name) for name in store.folders(store.part(run, layout.LOGS)))
    return sorted(int(match[1]) for match in found if match)
