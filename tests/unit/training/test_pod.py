import os
import time

import psutil
import pytest

from trainer.training import pod

TEMPLATE = {
    "TRAINER_GROUP": "spot-gpu",
    "TRAINER_NODE": "node-7",
    "TRAINER_INSTANCE_TYPE": "g5.xlarge",
    "TRAINER_ZONE": "eu-west-1a",
    "TRAINER_SPOT": "true",
    "TRAINER_IMAGE": "registry/trainer:1.0",
}


def test_a_process_outside_the_charts_pods_is_in_no_pod():
    assert pod.facts({"PATH": "/bin"}) is None


def test_a_pod_says_what_the_chart_and_kubernetes_tell_it(tmp_path):
    # as kubelet makes a volume: a folder, and a link to it
    (tmp_path / "..2026_11_27").mkdir()
    (tmp_path / "..data").symlink_to("..2026_11_27")
    os.utime(tmp_path / "..data", (1000.5, 1000.5), follow_symlinks=False)
    facts = pod.facts(TEMPLATE, tmp_path)
    assert facts.pop("pod") == os.uname().nodename
    assert facts.pop("container_began_at") == pytest.approx(psutil.Process(1).create_time(), abs=0.01)
    assert facts == {
        "group": "spot-gpu",
        "spot": True,
        "node": "node-7",
        "instance_type": "g5.xlarge",
        "zone": "eu-west-1a",
        "image": "registry/trainer:1.0",
        "mounted_at": 1000.5,
    }


def test_what_a_pod_is_not_told_is_left_out(tmp_path):
    facts = pod.facts({"TRAINER_GROUP": "cpu", "TRAINER_ZONE": "", "TRAINER_SPOT": "false"}, tmp_path / "missing")
    assert set(facts) == {"pod", "group", "spot", "container_began_at"}
    assert facts["spot"] is False


def test_a_container_without_a_readable_first_process_began_now(monkeypatch, tmp_path):
    def hidden(number):
        raise psutil.AccessDenied(number)

    monkeypatch.setattr(psutil, "Process", hidden)
    assert pod.facts(TEMPLATE, tmp_path)["container_began_at"] == pytest.approx(time.time(), abs=5.0)
