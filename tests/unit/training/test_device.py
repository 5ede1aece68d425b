import socket

import pytest
import torch

from trainer import resolve
from trainer.driver import preflight
from trainer.errors import ResourceError
from trainer.training import device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "precision", "reason"),
    [
        ({"avx2"}, "fp32", "neither AMX nor AVX-512"),
        ({"avx2", "avx512_bf16"}, "bf16", "avx512_bf16"),
        ({"amx_bf16", "avx512_bf16"}, "bf16", "amx_bf16 and avx512_bf16"),
        ({"asimd", "bf16"}, "bf16", "bf16"),
    ],
)
def test_bf16_is_chosen_by_the_cpus_flags_with_mocked_flags(monkeypatch, flags, precision, reason):
    monkeypatch.setattr(device, "cpu_flags", lambda: flags)
    chosen, why = device.choose_precision(resolve.load("fast"), CPU)
    assert chosen == precision
    assert reason in why


def test_the_configs_precision_is_used_as_given():
    assert device.choose_precision(resolve.load("fast", None, ["precision=bf16"]), CPU)[0] == "bf16"


def test_without_gpu_the_device_is_the_cpu():
    assert device.choose(resolve.load("fast")) == CPU


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_a_gpu_run_is_refused_where_pytorch_finds_none():
    with pytest.raises(ResourceError, match="finds no GPU"):
        device.choose(resolve.load("fast", None, ["gpu=true"]))


def test_more_workers_than_gpus_are_refused_with_mocked_gpus(monkeypatch):
    monkeypatch.setattr(device, "gpu_count", lambda: 2)
    with pytest.raises(ResourceError, match=r"workers: 4 need a GPU each, and this machine has 2; use --workers 2"):
        preflight.check_resources(resolve.load("fast", None, ["gpu=true", "workers=4", "cpus_per_worker=1"]))


def test_a_mac_has_one_gpu_with_mocked_platform(monkeypatch):
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    assert (device.gpu_kind(), device.gpu_count()) == ("mps", 1)


def test_gpu_count_follows_cuda_visible_devices_with_mocked_driver(monkeypatch):
    monkeypatch.setattr(device, "gpu_kind", lambda: "cuda")
    monkeypatch.setattr(device, "gpu_names", lambda: ["NVIDIA H100"] * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert device.gpu_count() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.gpu_count() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,2")
    assert device.gpu_count() == 1


def test_a_broken_driver_has_no_gpus_whatever_is_visible(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device.platform, "system", lambda: "Linux")
    with pytest.raises(ResourceError, match="gpu: true, but nvidia-smi lists none; repair the driver"):
        preflight.check_resources(resolve.load("fast", None, ["gpu=true"]))


@pytest.fixture
def cgroup(monkeypatch, tmp_path):
    """A machine of 64 cores whose process is in the cgroups that are written down here."""
    monkeypatch.setattr(device, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(device, "CGROUP_OF_THIS_PROCESS", tmp_path / "self")
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def write(membership, **files):
        (tmp_path / "self").write_text(membership)
        for name, content in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    return write


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("50000 100000", 1),
        ("150000 100000", 1),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("max 100000", 64),
        ("x", 64),
    ],
)
def test_a_quota_of_cgroup_2_limits_the_cores(cgroup, quota, cores):
    cgroup("0::/", **{"cpu.max": f"{quota}\n"})
    assert device.cpu_count() == cores


def test_the_quota_of_a_cgroup_above_limits_the_cores(cgroup):
    cgroup(
        "0::/team.slice/job.scope", **{"team.slice/cpu.max": "300000 100000\n", "team.slice/job.scope/cpu.max": "max 1"}
    )
    assert device.cpu_count() == 3


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("50000", 1), ("-1", 64)])
def test_a_quota_of_cgroup_1_limits_the_cores(cgroup, mount, quota, cores):
    folder = f"{mount}/docker/0123"
    cgroup(
        "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n0::/\n",
        **{f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"},
    )
    assert device.cpu_count() == cores


def test_a_container_sees_its_quota_at_the_mount_itself(cgroup):
    cgroup("3:cpu:/docker/0123\n", **{"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"})
    assert device.cpu_count() == 2


def test_affinity_limits_the_cores(cgroup, monkeypatch):
    cgroup("0::/", **{"cpu.max": "800000 100000\n"})
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {3, 5})
    assert device.cpu_count() == 2


def test_workers_share_the_cores_with_mocked_cores(monkeypatch):
    monkeypatch.setattr(device, "cpu_count", lambda: 8)
    assert preflight.check_resources(resolve.load("fast")) == 8
    assert preflight.check_resources(resolve.load("fast", None, ["workers=2"])) == 4
    assert preflight.check_resources(resolve.load("fast", None, ["workers=1-4"])) == 2
    assert preflight.check_resources(resolve.load("fast", None, ["workers=2", "cpus_per_worker=3"])) == 3


def test_small_batches_per_worker_lead_to_a_warning():
    assert "16 samples each" in preflight.warnings(resolve.load("seed", None, ["workers=2"]))[0]
    assert preflight.warnings(resolve.load("seed")) == []
    assert preflight.warnings(resolve.load("fast", None, ["workers=2"])) == []


def test_an_unreachable_cluster_is_refused_at_once(monkeypatch):
    with socket.socket() as taken:  # bound but not listening: nothing answers, and nothing else can listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ResourceError, match=f"no Ray cluster answers at {address}"):
            preflight.check_resources(resolve.load("fast"))
        taken.listen()
        assert preflight.check_resources(resolve.load("fast")) == 1
