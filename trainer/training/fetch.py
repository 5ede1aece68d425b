"""Finds the four Fashion-MNIST files: in a given folder, the cache, the Debian package, on a mirror, or through apt.

The pinned hashes are those of the decompressed bytes, since Debian compresses the files again. A file gets its name
only when it is verified. One process at a time fills a cache, under a file lock; a complete cache is used without it.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import http.client
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from trainer.errors import DataError


@dataclass(frozen=True)
class FileFacts:
    """The expected content of one decompressed file: ``size`` in bytes, ``sha256`` in hexadecimal."""

    size: int
    sha256: str


FILES: dict[str, FileFacts] = {
    "train-images-idx3-ubyte": FileFacts(47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": FileFacts(60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": FileFacts(7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": FileFacts(10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
TORCHVISION = ("FashionMNIST/raw", "raw")  # below the `root` of torchvision.datasets.FashionMNIST
PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
TRIES = 3  # per file and mirror
BACKOFF_S = 1.0  # before the second try, and twice that before the third
TIMEOUT_S = 10.0  # of a connection on which no byte arrives
APT_TIMEOUT_S = 600.0  # of one apt-get command: 31 MB at 50 kB/s
CHUNK = 1 << 20  # bytes


class _SourceError(Exception):
    """A source does not have the files, or they are damaged there; another source may have them."""


@dataclass(frozen=True)
class Source:
    """A place to fetch the files from.

    ``fetch`` takes a cache folder, locked and writable, and returns the folder that then has the four files: the cache,
    or the source itself if nothing had to be decompressed.
    """

    label: str
    fetch: Callable[[Path], Path]


def find_dataset(data: Path | None, log: Callable[[str], None] = lambda _: None) -> Path:
    """Return a folder with the four files, decompressed and verified; fetch them into the cache if necessary.

    ``data``, or else the folder in ``FASHION_MNIST_DIR``, is the only place searched if given. ``log`` gets one line
    for each place tried, and one if another process is filling the cache.

    Raises:
        DataError: no place has the files, or the given one has wrong files.
    """
    if data is not None:
        return _given("--data", data, log)
    if folder := os.environ.get("FASHION_MNIST_DIR"):
        return _given("FASHION_MNIST_DIR", Path(os.path.expanduser(folder)), log)  # noqa: PTH111 -- never raises
    return _cached(partial(_fetch, log=log), log)


def find_here(data: Path | None) -> Path | None:
    """Return the folder that `find_dataset` would find without a download; None if there is none, and fetch nothing.

    Raises:
        DataError: the given folder has wrong files.
    """
    if data is not None or os.environ.get("FASHION_MNIST_DIR"):
        return find_dataset(data)
    for folder in [*_cache_folders(), PACKAGE_FOLDER]:
        with suppress(_SourceError, OSError):
            for name, path in _locate(folder).items():
                verify_file(path, name)
            return folder
    return None


def verify(folder: Path) -> None:
    """Verify the four decompressed files of a folder.

    Raises:
        DataError: one of them is missing, truncated or wrong.
    """
    try:
        for name in FILES:
            verify_file(folder / name, name)
    except _SourceError as problem:
        raise DataError(str(problem), "put the original file there, or name another folder with --data") from problem


def verify_file(path: Path, name: str) -> None:
    """Read a file, compressed or not, and compare it with the facts about the file `name`.

    Raises:
        _SourceError: it is missing, truncated or wrong.
    """
    for _ in _chunks(path, name):
        pass  # reading to the end verifies


def _given(setting: str, source: Path, log: Callable[[str], None]) -> Path:
    try:
        paths = _locate(source)
        for name, path in paths.items():  # also if the cache is complete: it must not hide that the given files are bad
            verify_file(path, name)
        folder = next(iter(paths.values())).parent if _is_decompressed(paths) else _cached(partial(_unpack, paths), log)
    except (_SourceError, OSError) as problem:
        log(f"{setting} {source}: {problem}")
        raise DataError(
            f"{setting} {source}: {problem}", f"put the right file there, or leave {setting} out"
        ) from problem
    log(f"{setting} {source}: the four files are verified and in {folder}")
    return folder


# ── The cache ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cache_folders() -> Iterator[Path]:
    """Yield the user's cache, then a folder for machines whose home is read-only or full."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 -- never raises
    if base.is_absolute():  # it is relative if there is no home
        yield base / "fashion-mnist"
    yield Path(tempfile.gettempdir(), f"fashion-mnist-{os.getuid()}")


def _cached(fill: Callable[[Path], Path], log: Callable[[str], None]) -> Path:
    """Return the first cache folder that is complete, else what ``fill`` returns for the first that is writable."""
    for folder in filter(_is_complete, _cache_folders()):  # without a lock: a complete cache may be read-only
        log(f"cache {folder}: the four files are there and verified")
        return folder
    problems = []
    for folder in _cache_folders():
        try:
            with _lock(folder, log):
                if _is_complete(folder):  # another process filled it while this one waited for the lock
                    log(f"cache {folder}: the four files are there and verified")
                    return folder
                return fill(folder)
        except OSError as error:  # noqa: PERF203 -- of writing: an error of reading is a _SourceError
            problems.append(f"{folder} cannot be written ({error})")
            log(f"cache {problems[-1]}")
    raise DataError(" and ".join(problems), "set XDG_CACHE_HOME to a folder that you can write to, with 150 MB free")


def _lock(folder: Path, log: Callable[[str], None]) -> TextIO:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(folder)
    lock = (folder / ".lock").open("a")  # closing it unlocks
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log(f"cache {folder}: waiting for another process that is filling it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder in /tmp that another user may have put there, or can change: everyone can write to /tmp."""
    facts = folder.lstat()  # of the link, if it is one: its mode is always 0777
    if (facts.st_uid != os.getuid() or facts.st_mode & 0o022) and folder.parent == Path(tempfile.gettempdir()):
        raise PermissionError("another user owns it or can write to it")


def _is_complete(folder: Path) -> bool:
    with suppress(DataError, OSError):
        _refuse_foreign(folder)
        verify(folder)
        return True
    return False


def _remove_damaged(folder: Path) -> list[str]:
    """Remove the files of a locked cache that are damaged, and return a sentence for each."""
    removed = []
    for path in filter(Path.exists, map(folder.joinpath, FILES)):
        try:
            verify_file(path, path.name)
        except _SourceError as problem:  # noqa: PERF203
            path.unlink()
            removed.append(f"{problem}, so it was removed")
    return removed


# ── Sources ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sources() -> list[Source]:
    """Return where to fetch the files from, in this order."""
    return [
        Source(f"package folder {PACKAGE_FOLDER}", partial(_from_folder, PACKAGE_FOLDER)),
        *(Source(f"mirror {mirror}", partial(_from_mirror, mirror)) for mirror in MIRRORS),
        Source(f"apt package {PACKAGE}", _from_apt),
    ]


def _fetch(cache: Path, log: Callable[[str], None]) -> Path:
    """Return the folder of the first source that has the files."""
    log(f"cache {cache}: {'; '.join(_remove_damaged(cache)) or 'incomplete'}")
    failures = []
    for source in _sources():
        try:
            folder = source.fetch(cache)
        except _SourceError as problem:  # noqa: PERF203
            failures.append(f"the {source.label} ({problem})")
            log(f"{source.label}: {problem}")
        else:
            log(f"{source.label}: the four files are verified and in {folder}")
            return folder
    raise DataError(
        f"Fashion-MNIST is neither in the cache {cache} nor in {', '.join(failures)}",
        f"give --data a folder with the four files ({', '.join(FILES)}, or the same as .gz), or install {PACKAGE}",
    )


def _locate(folder: Path) -> dict[str, Path]:
    """Return the path of each file in a folder: with the suffix .gz if only the compressed file exists.

    The folder may also be a root of torchvision's, which has the files in a folder of their own.
    """
    if not folder.is_dir():
        raise _SourceError(f"{folder} is not a folder")
    places = [folder, *(folder / below for below in TORCHVISION)]
    folder = next((place for place in places if any(place.glob("*-ubyte*"))), folder)
    compressed = {name for name in FILES if (folder / f"{name}.gz").exists() and not (folder / name).exists()}
    return {name: folder / (f"{name}.gz" if name in compressed else name) for name in FILES}


def _is_decompressed(paths: Mapping[str, Path]) -> bool:
    return not any(path.suffix == ".gz" for path in paths.values())


def _from_folder(source: Path, cache: Path) -> Path:
    paths = _locate(source)
    if not _is_decompressed(paths):
        return _unpack(paths, cache)
    for name, path in paths.items():
        verify_file(path, name)
    return source


def _unpack(paths: Mapping[str, Path], cache: Path) -> Path:
    for name, path in paths.items():
        _store(path, name, cache)
    return cache


def _store(source: Path, name: str, folder: Path) -> None:
    temporary = folder / f".{name}.unpacking"  # no other process writes it: the caller holds the lock
    try:
        with temporary.open("wb") as out:
            for chunk in _chunks(source, name):
                out.write(chunk)
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)


def _chunks(path: Path, name: str) -> Iterator[bytes]:
    """Yield a file's decompressed bytes, and raise ``_SourceError`` at the end at the latest if they are wrong."""
    facts = FILES[name]
    digest = hashlib.sha256()
    size = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            while chunk := stream.read(min(CHUNK, facts.size + 1 - size)):  # stop one byte too late: no gzip bomb
                digest.update(chunk)
                size += len(chunk)
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        known = {FileNotFoundError: "is missing", EOFError: "is truncated: its compressed data end early"}
        raise _SourceError(f"{path} {known.get(type(error), f'cannot be read ({error})')}") from error
    if size != facts.size:
        wrong = f"truncated, {size:,} of" if size < facts.size else "too long, more than"
        raise _SourceError(f"{path} is {wrong} {facts.size:,} bytes")
    if digest.hexdigest() != facts.sha256:
        raise _SourceError(f"{path} has sha256 {digest.hexdigest()[:12]}…, not {facts.sha256[:12]}…")


def _from_mirror(mirror: str, folder: Path) -> Path:
    for name in FILES:
        if not (folder / name).exists():  # existing files are verified: damaged ones were removed
            _download(f"{mirror}{name}.gz", name, folder)
    return folder


def _download(url: str, name: str, folder: Path) -> None:
    part = folder / f".{name}.part.gz"  # kept when a connection breaks: the next try, or process, resumes from it
    for attempt in range(TRIES):
        time.sleep(BACKOFF_S * attempt)
        try:
            have = part.stat().st_size if part.exists() else 0
            for offset, chunk in _receive(url, have, FILES[name].size + CHUNK):
                with part.open("ab") as out:
                    out.truncate(offset)
                    out.write(chunk)
            try:
                return _store(part, name, folder)
            finally:
                part.unlink(missing_ok=True)  # stored, or wrong
        except OSError:  # of writing
            part.unlink(missing_ok=True)  # do not leave the disk full
            raise
        except _SourceError as error:
            problem = f"{error}, in try {attempt + 1} of {TRIES}"
            cause = error.__cause__
            if isinstance(cause, urllib.error.URLError) and getattr(cause, "code", 0) < 500:
                break  # no network, host or file: another try in a second would fail alike
    raise _SourceError(problem)


def _receive(url: str, have: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """Yield what a server sends, as offset and bytes: from byte ``have`` on if it supports ranges, up to ``limit``."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 -- MIRRORS
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 -- as above
            offset = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
            total = offset + (response.length or 0)
            while offset < limit and (chunk := response.read1(CHUNK)):
                yield offset, chunk
                offset += len(chunk)
    except (OSError, http.client.HTTPException) as error:
        if have and getattr(error, "code", 0) == 416:
            return  # the server has no more: the checksum decides whether the file is complete
        raise _SourceError(f"{url}: {error}") from error
    if offset < total:
        raise _SourceError(f"{url}: the connection was lost after {offset:,} of {total:,} bytes")


def _from_apt(folder: Path) -> Path:
    """Unpack the package without root, with a private cache and, if necessary, lists; the system is unchanged."""
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as scratch:
        apt = ["apt-get", f"-oDir::Cache={scratch}", "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=root"]
        try:
            _run(scratch, *apt, "download", PACKAGE)
        except _SourceError:  # the system's lists are empty, as in a slim container, or outdated
            apt.append(f"-oDir::State={scratch}")
            with suppress(_SourceError):  # one broken repository makes it fail, and the package may be in another
                _run(scratch, *apt, "update")
            _run(scratch, *apt, "download", PACKAGE)
        _run(scratch, "dpkg-deb", "-x", *map(str, Path(scratch).glob("*.deb")), "unpacked")
        return _unpack(_locate(Path(scratch, "unpacked", PACKAGE_FOLDER.relative_to("/"))), folder)


def _run(folder: str, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=APT_TIMEOUT_S)  # noqa: S603 -- apt, dpkg
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _SourceError(f"{command[0]} cannot be run ({error})") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or [f"exit code {done.returncode}"]
        raise _SourceError(f"{command[0]} failed ({lines[-1]})")
