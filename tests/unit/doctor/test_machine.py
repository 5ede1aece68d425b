import json
import os
import socket
import subprocess
import sys

import pytest

from trainer.doctor import machine
from trainer.doctor.check import State
from trainer.errors import DataError, ExitCode, OutageError
from trainer.storage.folder import Folder


def test_a_storage_is_left_as_it_was(tmp_path):
    check = machine.check_storage("here", str(tmp_path))
    assert check.state is State.GOOD
    assert f"as user {os.getuid()}" in check.found
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    check = machine.check_storage("here", str(tmp_path / "file"))
    assert (check.state, check.code) == (State.BAD, ExitCode.STORAGE)
    assert "cannot be written" in check.found
    assert check.fix


def test_the_identity_shows_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "training")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert machine.identity.describe("s3://runs") == "access key training"


def test_an_endpoint_without_an_address_is_wrong(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://object-store.invalid:7070")
    (check,) = machine.check_dns("here", "s3://runs")
    assert check.state is State.BAD
    assert "object-store.invalid has no address" in check.found


def test_a_small_shared_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "SHM_MIN_BYTES", 2**60)
    (check,) = machine.check_shared_memory("here")
    assert check.state is State.WARNING
    assert "emptyDir of medium Memory" in check.fix


def test_clocks_may_differ_by_a_few_seconds():
    assert machine.check_clock("here", 4.0, "x").state is State.GOOD
    assert machine.check_clock("here", -6.0, "x").state is State.BAD


def test_another_version_of_ray_is_wrong(monkeypatch):
    assert machine.check_versions("here").state is State.GOOD
    monkeypatch.setattr(machine, "RAY_VERSION", "2.9.0")
    assert machine.check_versions("here").code == ExitCode.CONFIG


def test_a_data_set_that_is_damaged_is_wrong(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    assert machine.check_data("here", tmp_path).code == ExitCode.DATA


def test_a_failed_storage_is_the_errors_problem_and_fix(monkeypatch):
    def away(_):
        raise OutageError("storage: s3://runs is away: a; b", "check the network; then the endpoint")

    monkeypatch.setattr(machine.store, "check", away)
    check = machine.check_storage("here", "s3://runs")
    assert check.found.startswith("storage: s3://runs is away: a; b (")
    assert check.fix == "check the network; then the endpoint"
    assert check.code == ExitCode.STORAGE


def test_a_storage_that_returns_other_bytes_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "read", lambda *_: b"")
    check = machine.check_storage("here", str(tmp_path))
    assert (check.state, check.code) == (State.BAD, ExitCode.STORAGE)
    assert "returns other bytes" in check.found


def test_failed_data_are_the_errors_problem_and_fix(tmp_path, monkeypatch):
    def damaged(*_):
        raise DataError("a file: is damaged: x", "put the right one there: y")

    monkeypatch.setattr(machine.fetch, "find_here", damaged)
    check = machine.check_data("here", tmp_path)
    assert (check.found, check.fix, check.code) == (
        "a file: is damaged: x",
        "put the right one there: y",
        ExitCode.DATA,
    )


def test_data_that_are_nowhere_yet_are_a_warning_with_its_fix(tmp_path, monkeypatch):
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine.fetch.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(machine.fetch, "PACKAGE_FOLDER", tmp_path / "package")
    check = machine.check_data("here", None)
    assert (check.state, "--data" in check.fix) == (State.WARNING, True)
    assert list(tmp_path.iterdir()) == []  # nothing was fetched


def test_a_named_folder_without_data_is_wrong(tmp_path, monkeypatch):
    assert machine.check_data("here", tmp_path / "none").state is State.BAD
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "none"))
    assert machine.check_data("here", None).state is State.BAD


@pytest.mark.parametrize(("ahead_s", "state"), [(5.0, State.GOOD), (5.1, State.BAD), (-5.0, State.GOOD)])
def test_a_clock_may_be_five_seconds_off(ahead_s, state):
    check = machine.check_clock("here", ahead_s, "the head")
    assert check.state is state
    assert ("ahead of" in check.found) is (ahead_s > 0)


@pytest.mark.parametrize(
    ("runs", "variables", "identity"),
    [
        ("s3://runs", {"AWS_ROLE_ARN": "arn:x"}, "role arn:x"),
        ("gs://runs", {"GOOGLE_SERVICE_ACCOUNT": "k.json"}, "key file k.json"),
        ("az://runs", {"AZURE_CLIENT_ID": "id"}, "client id"),
        ("s3://runs", {}, "the identity of this machine or pod"),
    ],
)
def test_the_identity_is_that_of_the_environment(monkeypatch, runs, variables, identity):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.identity.describe(runs) == identity


def test_a_folder_needs_no_dns(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://object-store.invalid:7070")
    assert list(machine.check_dns("here", "/runs")) == []


def test_the_doctor_prints_each_check_and_exits_with_the_first_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "trainer", "doctor", "--storage", str(tmp_path / "file"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == ExitCode.STORAGE
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"versions", "CPU", "storage", "data"} <= {event["what"] for event in found if event["event"] == "check"}
    assert found[-1]["exit_code"] == ExitCode.STORAGE


@pytest.mark.parametrize(
    ("address", "state"), [("http://127.0.0.1:8265", State.BAD), ("127.0.0.1:9", State.BAD), ("", None), (None, None)]
)
def test_a_ray_address_without_a_cluster_is_wrong(monkeypatch, address, state):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    found = list(machine.check_ray_address("here"))
    assert [check.state for check in found] == ([state] if state else [])
    assert all("RAY_ADDRESS" in check.found and check.fix for check in found)


def test_a_ray_address_that_answers_is_said(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        (check,) = machine.check_ray_address("here")
    assert (check.state, "runs go there" in check.found) == (State.GOOD, True)


def test_a_driver_that_lists_no_gpu_is_wrong(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(machine.device.platform, "system", lambda: "Linux")
    gpu = next(check for check in machine.check_devices("here") if check.what == "GPU")
    assert (gpu.state, gpu.code, "repair the driver" in gpu.fix) == (State.BAD, ExitCode.RESOURCES, True)


def test_an_amd_gpu_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(machine, "AMD_DRIVER", tmp_path)
    gpu = next(check for check in machine.check_devices("here") if check.what == "GPU")
    assert (gpu.state, "AMD" in gpu.found) == (State.WARNING, True)


def test_cores_that_are_limited_are_said(monkeypatch):
    monkeypatch.setattr(machine.device, "cpu_count", lambda: 1)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    assert "1 core of 64 (affinity or cgroup quota)" in next(machine.check_devices("here")).found
