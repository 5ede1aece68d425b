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
def test_bf16_is_chosen_by_the_cpus_flags_and_the_reason_told_with_mocked_flags(monkeypatch, flags, precision, reason):
    monkeypatch.setattr(device, "cpu_flags", lambda: flags)
    chosen, why = device.choose_precision(resolve.load("fast"), CPU)
    assert chosen == precision
    assert reason in why


def test_a_precision_in_the_config_is_taken_as_it_is():
    assert device.choose_precision(resolve.load("fast", None, ["precision=bf16"]), CPU)[0] == "bf16"


def test_without_gpu_the_device_is_the_cpu():
    assert device.choose(resolve.load("fast")) == CPU


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_a_gpu_run_where_pytorch_sees_none_is_refused():
    with pytest.raises(ResourceError, match="sees no GPU"):
        device.choose(resolve.load("fast", None, ["gpu=true"]))


def test_more_workers_than_gpus_are_refused_with_mocked_gpus(monkeypatch):
    monkeypatch.setattr(device, "gpu_count", lambda: 2)
    with pytest.raises(ResourceError, match=r"workers: 4 need a GPU each, and this machine has 2; use --workers 2"):
        preflight.check_resources(resolve.load("fast", None, ["gpu=true", "workers=4", "cpus_per_worker=1"]))


def test_a_mac_has_one_gpu_with_mocked_platform(monkeypatch):
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    assert (device.gpu_kind(), device.gpu_count()) == ("mps", 1)


def test_visible_gpus_are_those_that_cuda_shows_with_mocked_driver(monkeypatch):
    monkeypatch.setattr(device, "gpu_kind", lambda: "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert device.gpu_count() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.gpu_count() == 0


def test_one_worker_gets_all_cores_and_several_share_them_with_mocked_cores(monkeypatch):
    monkeypatch.setattr(device, "cpu_count", lambda: 8)
    assert preflight.check_resources(resolve.load("fast")) == 8
    assert preflight.check_resources(resolve.load("fast", None, ["workers=2"])) == 4
    assert preflight.check_resources(resolve.load("fast", None, ["workers=1-4"])) == 2
    assert preflight.check_resources(resolve.load("fast", None, ["workers=2", "cpus_per_worker=3"])) == 3


def test_small_batches_per_worker_are_warned_of_and_large_ones_not():
    assert "16 samples each" in preflight.warnings(resolve.load("seed", None, ["workers=2"]))[0]
    assert preflight.warnings(resolve.load("seed")) == []
    assert preflight.warnings(resolve.load("fast", None, ["workers=2"])) == []


def test_a_cluster_that_does_not_answer_is_refused_at_once(monkeypatch):
    with socket.socket() as taken:  # bound, not listening: nobody answers there, and nobody else can
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ResourceError, match=f"no Ray cluster answers at {address}"):
            preflight.check_resources(resolve.load("fast"))
        taken.listen()
        assert preflight.check_resources(resolve.load("fast")) == 1
