"""Where the four Fashion-MNIST files come from: a folder, the cache, the Debian package, a mirror, or apt.

What is pinned is the decompressed bytes, since Debian compresses the files anew; no file has its name before it is
verified. One process at a time fills a cache, under a file lock; a full cache is used without the lock.
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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from trainer.errors import DataError


@dataclass(frozen=True)
class FileFacts:
    """What one decompressed file must be: ``size`` in bytes, ``sha256`` in hexadecimal."""

    size: int
    sha256: str


FILES: dict[str, FileFacts] = {
    "train-images-idx3-ubyte": FileFacts(47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": FileFacts(60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": FileFacts(7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": FileFacts(10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
TRIES, BACKOFF_S = 3, 1.0  # per file and mirror; before the second try, and twice that before the third
TIMEOUT_S = 10.0  # of a connection without a single byte
APT_TIMEOUT_S = 600.0  # of one apt-get command: 31 MB at 50 kB/s
CHUNK = 1 << 20  # bytes


class _SourceError(Exception):
    """This source has not the files, or not whole: the next one may."""


def find_dataset(data: Path | None, log: Callable[[str], None] = lambda _: None) -> Path:
    """Return a folder with the four files, decompressed and verified, fetched into the cache if need be.

    ``data``, else ``FASHION_MNIST_DIR``, is the only place looked in when given. ``log`` gets one line per place tried
    (and one if another process has to be waited for). Raises ``DataError``, one sentence with the remedy.
    """
    if data is not None:
        return _given("--data", data, log)
    if named := os.environ.get("FASHION_MNIST_DIR"):
        return _given("FASHION_MNIST_DIR", Path(named).expanduser(), log)
    return _stored(partial(_from_sources, log=log), log)


find = find_dataset  # the name that other rooms use


def verify(folder: Path) -> None:
    """Raise ``DataError`` naming the first of the four decompressed files that is missing, truncated or wrong."""
    try:
        for name in FILES:
            deque(_chunks(folder / name, name), maxlen=0)
    except _SourceError as problem:
        raise DataError(f"{problem}: put the original file there, or name another folder with --data") from problem


def _given(setting: str, source: Path, log: Callable[[str], None]) -> Path:
    try:
        found = _use(source, source, True) if _paths(source)[1] else _stored(partial(_use, source), log)
    except (_SourceError, OSError) as problem:
        log(f"{setting} {source}: {problem}")
        raise DataError(f"{setting} {source}: {problem}: put the right file there or leave {setting} out") from problem
    log(f"{setting} {source}: the four files are verified and in {found}")
    return found


def _from_sources(folder: Path, whole: bool, log: Callable[[str], None]) -> Path:
    log(f"cache {folder}: {'the four files are there and verified' if whole else _clear_damaged(folder)}")
    if whole:
        return folder
    sources: list[tuple[str, Callable[[Path], Path]]] = [
        (f"package folder {PACKAGE_FOLDER}", partial(_use, PACKAGE_FOLDER, whole=False)),
        *((f"mirror {mirror}", partial(_from_mirror, mirror)) for mirror in MIRRORS),
        (f"apt package {PACKAGE}", _from_apt),
    ]
    tried = []
    for label, source in sources:
        try:
            found = source(folder)
            log(f"{label}: the four files are verified and in {found}")
            return found
        except _SourceError as problem:  # noqa: PERF203
            tried.append(f"the {label} ({problem})")
            log(f"{label}: {problem}")
    remedy = f"give --data a folder with the four files ({', '.join(FILES)}, or the same in .gz) or install {PACKAGE}"
    raise DataError(f"Fashion-MNIST was found neither in the cache {folder} nor in {', '.join(tried)}: {remedy}")


def _places() -> Iterator[Path]:
    """Yield the cache, then a folder for machines whose home is read-only or full."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 -- never raises
    if base.is_absolute():  # it is not where there is no home
        yield base / "fashion-mnist"
    yield Path(tempfile.gettempdir(), f"fashion-mnist-{os.getuid()}")


def _stored(fill: Callable[[Path, bool], Path], log: Callable[[str], None]) -> Path:
    """Return what ``fill`` makes of the first folder that has the files whole (no lock then) or can be written."""
    if whole := next(filter(_is_whole, _places()), None):
        return fill(whole, True)
    problems = []
    for folder in _places():
        try:
            with _lock(folder, log):
                return fill(folder, _is_whole(folder))  # another process may have filled it before we had the lock
        except OSError as error:  # noqa: PERF203 -- of writing: when reading goes wrong, that is a _SourceError
            problems.append(f"{folder} cannot be written ({error})")
            log(f"cache {problems[-1]}")
    raise DataError(f"{' and '.join(problems)}: set XDG_CACHE_HOME to a folder you can write, with 150 MB free")


def _lock(folder: Path, log: Callable[[str], None]) -> TextIO:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_strangers(folder)
    lock = (folder / ".lock").open("a")  # closing it unlocks
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log(f"cache {folder}: waiting for another process that is filling it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _refuse_strangers(folder: Path) -> None:
    """In a /tmp that all users share, anyone may have laid our folder, or a link: take it only if it is ours alone."""
    facts = folder.lstat()  # the mode of a link is always 0777
    if (facts.st_uid != os.getuid() or facts.st_mode & 0o022) and folder.parent == Path(tempfile.gettempdir()):
        raise PermissionError("it is another user's, or others can write it")


def _is_whole(folder: Path) -> bool:
    with suppress(DataError, OSError):
        _refuse_strangers(folder)
        verify(folder)
        return True
    return False


def _clear_damaged(folder: Path) -> str:
    """Remove the cached files that are wrong, and say which; the caller holds the lock."""
    removed = []
    for path in filter(Path.exists, map(folder.joinpath, FILES)):
        try:
            deque(_chunks(path, path.name), maxlen=0)
        except _SourceError as problem:  # noqa: PERF203
            path.unlink()
            removed.append(f"{problem}, so it was removed")
    return "; ".join(removed) or "not all of the four files are there"


def _paths(folder: Path) -> tuple[dict[str, Path], bool]:
    """Where each file is, and whether none of them is compressed."""
    if not folder.is_dir():
        raise _SourceError(f"{folder} is not a folder")
    packed = {name for name in FILES if (folder / f"{name}.gz").exists() and not (folder / name).exists()}
    return {name: folder / (f"{name}.gz" if name in packed else name) for name in FILES}, not packed


def _use(source: Path, folder: Path, whole: bool) -> Path:
    """Check the files and return where they are decompressed: ``source``, else ``folder``, filled unless ``whole``."""
    paths, plain = _paths(source)
    for name, path in paths.items():
        if plain or whole:
            deque(_chunks(path, name), maxlen=0)
        else:
            _store(path, name, folder)
    return source if plain else folder


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
    """Yield a file's bytes, decompressed; raises ``_SourceError``, at the latest at the end, if they are wrong."""
    facts, digest, size = FILES[name], hashlib.sha256(), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            while chunk := stream.read(min(CHUNK, facts.size + 1 - size)):  # one byte too many is enough: no gzip bomb
                digest.update(chunk)
                size += len(chunk)
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        known = {FileNotFoundError: "is missing", EOFError: "is truncated, its compressed data end early"}
        raise _SourceError(f"{path} {known.get(type(error), f'cannot be read ({error})')}") from error
    if size != facts.size:
        wrong = f"truncated, {size:,} of" if size < facts.size else "too long, more than"
        raise _SourceError(f"{path} is {wrong} {facts.size:,} bytes")
    if digest.hexdigest() != facts.sha256:
        raise _SourceError(f"{path} has sha256 {digest.hexdigest()[:12]}…, not {facts.sha256[:12]}…")


def _from_mirror(mirror: str, folder: Path) -> Path:
    for name in FILES:
        if not (folder / name).exists():  # what is there is verified: the damaged ones were removed
            _download(f"{mirror}{name}.gz", name, folder)
    return folder


def _download(url: str, name: str, folder: Path) -> None:
    part = folder / f".{name}.part.gz"  # stays when a connection breaks: the next try, or process, goes on from there
    for attempt in range(TRIES):
        time.sleep(BACKOFF_S * attempt)
        try:
            for offset, chunk in _sent(url, part.stat().st_size if part.exists() else 0, FILES[name].size + CHUNK):
                with part.open("ab") as out:
                    out.truncate(offset)
                    out.write(chunk)
            try:
                return _store(part, name, folder)
            finally:
                part.unlink(missing_ok=True)  # stored, or wrong
        except OSError:  # of writing
            part.unlink(missing_ok=True)  # leave no full disk behind
            raise
        except _SourceError as error:
            problem, cause = f"{error}, in try {attempt + 1} of {TRIES}", error.__cause__
            if isinstance(cause, urllib.error.URLError) and getattr(cause, "code", 0) < 500:
                break  # no network, no such host, no such file: it will be the same in a second
    raise _SourceError(problem)


def _sent(url: str, have: int, most: int) -> Iterator[tuple[int, bytes]]:
    """Yield what a server sends, from byte ``have`` if it can, and where that belongs in the file."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 -- MIRRORS
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 -- as above
            offset = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
            total = offset + (response.length or 0)
            while offset < most and (chunk := response.read1(CHUNK)):
                yield offset, chunk
                offset += len(chunk)
    except (OSError, http.client.HTTPException) as error:
        if have and getattr(error, "code", 0) == 416:
            return  # there is no more than we have: its checksum will tell whether that is the file
        raise _SourceError(f"{url}: {error}") from error
    if offset < total:
        raise _SourceError(f"{url}: the connection broke off after {offset:,} of {total:,} bytes")


def _from_apt(folder: Path) -> Path:
    """Unpack the package without root, with a cache and, if need be, lists of our own: the system stays as it is."""
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as scratch:
        apt = ["apt-get", f"-oDir::Cache={scratch}", "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=root"]
        try:
            _run(scratch, *apt, "download", PACKAGE)
        except _SourceError:  # the system's lists are empty, as in a slim container, or old
            apt.append(f"-oDir::State={scratch}")
            with suppress(_SourceError):  # fails for any one broken repository, which need not be ours
                _run(scratch, *apt, "update")
            _run(scratch, *apt, "download", PACKAGE)
        _run(scratch, "dpkg-deb", "-x", *map(str, Path(scratch).glob("*.deb")), "unpacked")
        for name, path in _paths(Path(scratch, "unpacked", PACKAGE_FOLDER.relative_to("/")))[0].items():
            _store(path, name, folder)
    return folder


def _run(folder: str, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=APT_TIMEOUT_S)  # noqa: S603 -- apt, dpkg
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _SourceError(f"{command[0]} cannot be run ({error})") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines() or [f"exit code {done.returncode}"]
        raise _SourceError(f"{command[0]} failed ({said[-1]})")
