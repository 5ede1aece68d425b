"""File systems that lack things, as the errors of a real folder: nothing here can mount SMB, exFAT or a bucket."""

import errno
import os
from types import SimpleNamespace

import psutil
import pytest

from trainer.errors import StorageError
from trainer.storage import folder, store

LACKING = [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS]


@pytest.fixture
def without_links(monkeypatch, request):
    def link(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


@pytest.fixture
def without_folder_fsync(monkeypatch, request):
    fsync = os.fsync

    def only_of_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 # a descriptor, not a path
            raise OSError(request.param, os.strerror(request.param))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_of_files)


@pytest.mark.parametrize("without_links", LACKING, indirect=True)
def test_a_file_is_created_once_without_hard_links(tmp_path, without_links):
    store.check(str(tmp_path))
    assert store.create(str(tmp_path / "x"), b"first")
    assert not store.create(str(tmp_path / "x"), b"second")
    assert store.read(str(tmp_path / "x")) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("without_folder_fsync", LACKING, indirect=True)
def test_a_file_is_written_where_folders_have_no_fsync(tmp_path, without_folder_fsync):
    store.check(str(tmp_path))
    store.write(str(tmp_path / "x"), b"1")
    assert store.create(str(tmp_path / "y"), b"2")
    assert (store.read(str(tmp_path / "x")), store.read(str(tmp_path / "y"))) == (b"1", b"2")


@pytest.mark.parametrize("without_links", [errno.EIO, errno.EROFS], indirect=True)
def test_a_failing_disk_is_no_missing_feature(tmp_path, without_links):
    with pytest.raises(StorageError, match="cannot be written"):
        store.create(str(tmp_path / "x"), b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("without_links", [errno.EPERM], indirect=True)
def test_a_full_disk_leaves_no_empty_name(tmp_path, without_links, monkeypatch):
    written = folder._fill

    def fill(descriptor, content):
        if not os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2].startswith("."):  # noqa: PTH115 # as above
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(descriptor, content)

    monkeypatch.setattr(folder, "_fill", fill)
    with pytest.raises(StorageError, match="free space"):
        store.create(str(tmp_path / "x"), b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", folder.MOUNTED_BUCKETS)
@pytest.mark.parametrize("shown_as", ["fuse.{}", "fuse"])
def test_a_mounted_bucket_is_refused_by_the_name_of_its_mount(tmp_path, monkeypatch, kind, shown_as):
    mount = SimpleNamespace(mountpoint=str(tmp_path), fstype=shown_as.format(kind), device=kind)
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [mount])
    with pytest.raises(StorageError, match=f"a bucket mounted with {kind}.*s3://"):
        store.check(str(tmp_path / "runs"))


def test_a_file_system_that_cannot_replace_a_file_is_named(tmp_path, monkeypatch):
    mount = SimpleNamespace(mountpoint=str(tmp_path), fstype="odd", device="disk")
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [mount])

    def replace(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(StorageError, match="its file system, odd, lacks what a run needs"):
        store.check(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_type_of_a_file_system_is_found(tmp_path):
    assert folder.file_system(str(tmp_path))[0]
