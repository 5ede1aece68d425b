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
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert device.gpu_count() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.gpu_count() == 0


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
