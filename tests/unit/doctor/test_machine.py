import json
import os
import subprocess
import sys

import pytest

from trainer.doctor import kubernetes, machine
from trainer.doctor.machine import Check, State
from trainer.errors import ExitCode

GPU_GROUP = {
    "groupName": "gpu",
    "minReplicas": 0,
    "maxReplicas": 4,
    "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1", "nvidia.com/gpu": 1}}}]}},
}


def test_a_storage_is_written_read_and_left_as_it_was(tmp_path):
    check = machine.storage("here", str(tmp_path))
    assert check.state is State.GOOD
    assert f"as user {os.getuid()}" in check.found
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_wrong_with_its_fix(tmp_path):
    (tmp_path / "file").write_text("")
    check = machine.storage("here", str(tmp_path / "file"))
    assert (check.state, check.code) == (State.BAD, ExitCode.STORAGE)
    assert "cannot be written" in check.found
    assert check.fix


def test_no_secret_is_shown_for_the_identity(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "training")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert machine.identity("s3://runs") == "access key training"


def test_an_endpoint_without_an_address_is_wrong(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://object-store.invalid:7070")
    (check,) = machine.names("here", "s3://runs")
    assert check.state is State.BAD
    assert "object-store.invalid has no address" in check.found


def test_a_small_shared_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "SHM_LEAST", 2**60)
    (check,) = machine.shared_memory("here")
    assert check.state is State.WARNING
    assert "memory emptyDir" in check.fix


def test_clocks_may_differ_by_seconds_only():
    assert machine.clock("here", 4.0, "x").state is State.GOOD
    assert machine.clock("here", -6.0, "x").state is State.BAD


def test_another_ray_than_the_trainer_s_is_wrong(monkeypatch):
    assert machine.versions("here").state is State.GOOD
    monkeypatch.setattr(machine, "RAY", "2.9.0")
    assert machine.versions("here").code == ExitCode.CONFIG


def test_a_data_set_that_is_damaged_is_wrong(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    assert machine.data_set("here", tmp_path).code == ExitCode.DATA


def test_the_exit_code_is_the_first_wrong_line_s_and_warnings_have_none():
    warning = Check("a", "b", State.WARNING, "c")
    assert kubernetes.worst([machine.good("a", "b", "c"), warning]) == ExitCode.OK
    bad = Check("a", "b", State.BAD, "c", "d", ExitCode.STORAGE)
    assert kubernetes.worst([warning, bad, Check("a", "b", State.BAD, "c", "d", ExitCode.DATA)]) == ExitCode.STORAGE


def test_the_doctor_prints_a_line_for_each_check_and_returns_the_worst(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "trainer", "doctor", "--storage", str(tmp_path / "file"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == ExitCode.STORAGE
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"versions", "CPU", "storage", "data"} <= {each["what"] for each in found if each["event"] == "check"}
    assert found[-1]["exit_code"] == ExitCode.STORAGE


@pytest.mark.parametrize(
    ("nodes", "replicas"),
    [
        ([{"status": {"allocatable": {"nvidia.com/gpu": "1"}}}], 1),
        ([{"status": {"allocatable": {}}}], 0),
        (None, 0),
    ],
)
def test_the_doctor_s_cluster_has_a_pod_of_each_group_that_some_node_can_hold(nodes, replicas):
    spec = {"rayClusterSpec": {"workerGroupSpecs": [GPU_GROUP]}, "backoffLimit": 2}
    template = {"metadata": {"name": "fashion-mnist", "labels": {}}, "spec": spec}
    job, left_out = kubernetes.as_visit(template, nodes)
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == replicas
    assert job["spec"]["backoffLimit"] == 0
    assert [each.where for each in left_out] == ([] if replicas else ["gpu"])
    assert template["metadata"]["name"] == "fashion-mnist"
