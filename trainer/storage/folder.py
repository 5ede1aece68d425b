"""A folder of this machine, or one mounted from elsewhere, as a store; keys are absolute paths.

Network and memory-card file systems lack things that a disk has: hard links (exFAT, SMB), fsync of a folder, or both.
What only makes a loss of power harmless is left out there; what two processes rely on has a second way.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

import psutil

from trainer.errors import StorageError, UnusableNameError

UNSUPPORTED = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EMLINK,
        errno.EISDIR,
        errno.EBADF,
        errno.ENOTTY,
    }
)
# Object stores mounted as folders: each machine creates a file in its own cache first, so that two may own one run.
MOUNTED_BUCKETS = ("gcsfuse", "s3fs", "goofys", "geesefs", "mountpoint-s3", "blobfuse", "blobfuse2", "rclone")


class Folder:
    """A folder of this machine as a store; keys are absolute paths."""

    def read(self, key: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        try:
            return Path(key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Replace a file: a reader finds the old one or the new one."""
        partial = _write_aside(Path(key), content)
        try:
            partial.replace(key)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        _sync_names(Path(key).parent)

    def create(self, key: str, content: bytes) -> bool:
        """Write a file if there is none of that name; whether this call made it.

        Where there are no hard links, the file appears before its content: a reader may find it empty for a moment.
        """
        partial = _write_aside(Path(key), content)
        try:
            os.link(partial, key)  # unlike a rename, it fails if the name is taken
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return _create_exclusively(Path(key), content)
        finally:
            partial.unlink()
        _sync_names(Path(key).parent)
        return True

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        Path(key).unlink(missing_ok=True)

    def files(self, key: str) -> list[str]:
        """Return the paths of all files below a folder, relative to it."""
        paths = [Path(folder, name) for folder, _, names in os.walk(key, onerror=_unless_gone) for name in names]
        return sorted(str(path.relative_to(key)) for path in paths)

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders in a folder."""
        _, names, _ = next(os.walk(key, onerror=_unless_gone), (key, [], []))
        return sorted(names)

    def prepare(self, key: str) -> None:
        """Make the folder if it is missing.

        Raises:
            StorageError: it is a mounted bucket, where two processes can own one run.
        """
        Path(key).mkdir(parents=True, exist_ok=True)
        kind, source = file_system(key)
        bucket = next((name for name in MOUNTED_BUCKETS if name in (kind.removeprefix("fuse."), source)), None)
        if bucket is not None:
            raise StorageError(
                f"storage: {key} is a bucket mounted with {bucket}, where two processes can own one run",
                "give the bucket itself (s3://, gs:// or az://bucket/prefix), or a folder on a disk",
            )


def check_parts(folder: str, names: Sequence[str]) -> None:
    """Check that what lies in a folder at the path `names` is there, not elsewhere; it need not exist.

    The folder itself may be reached by links.

    Raises:
        UnusableNameError: the path leads out of the folder, as a symbolic link may, or to a pipe or device.
    """
    path = Path(folder)
    for name in Path(*names).parts:
        path /= name
        if name == ".." or name == os.sep:
            raise UnusableNameError(f"storage: {path} is not in {folder}", "remove what names it")
        try:
            mode = path.lstat().st_mode
        except OSError:  # missing, or not readable: who reads it says so
            return
        if S_ISLNK(mode):
            raise UnusableNameError(
                f"storage: {path} is a symbolic link, which may lead out of {folder}",
                "remove it, or put in its place what it leads to",
            )
        if not (S_ISREG(mode) or S_ISDIR(mode)):
            raise UnusableNameError(f"storage: {path} is neither a file nor a folder", "remove it")


def file_system(folder: str) -> tuple[str, str]:
    """Return type and source of the file system that a folder is on, such as ``cifs`` and ``//host/share``.

    Both are empty where the system does not tell.
    """
    real = Path(folder).resolve()
    try:
        mounts = {Path(disk.mountpoint): (disk.fstype, disk.device) for disk in psutil.disk_partitions(all=True)}
    except (OSError, RuntimeError):  # no /proc, as in some sandboxes
        return "", ""
    return next((mounts[place] for place in [real, *real.parents] if place in mounts), ("", ""))


def _create_exclusively(file: Path, content: bytes) -> bool:
    try:
        with file.open("xb") as out:
            _fill(out.fileno(), content)
    except FileExistsError:
        return False
    except OSError:  # a full disk: leave no name without content
        file.unlink(missing_ok=True)
        raise
    _sync_names(file.parent)
    return True


def _write_aside(file: Path, content: bytes) -> Path:
    """Write the content to disk under a temporary name, beside the file: nobody can have put a link there before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        _fill(descriptor, content)
    except OSError:  # a full disk: leave nothing half-written
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return partial


def _fill(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as out:
        out.write(content)
    with _where_supported():
        os.fsync(descriptor)


def _sync_names(folder: Path) -> None:
    """Let the names in a folder survive a loss of power, where the file system can."""
    with _where_supported():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _where_supported() -> Iterator[None]:
    """Suppress the error of an operation that the file system does not have."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _unless_gone(error: OSError) -> None:
    """Raise an error of listing a folder, unless another process removed it meanwhile, as pruning does."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
