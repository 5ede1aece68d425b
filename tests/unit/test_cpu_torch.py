"""tools/cpu_torch.py: PyTorch's build for CUDA, in a folder without NVIDIA's libraries."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("elftools", reason="pyelftools is not installed")
from tools import cpu_torch

# A training step of each kind of layer; the sum of all gradients, to the last bit.
COMPUTE = """
import hashlib, torch
torch.manual_seed(0)
torch.set_num_threads(1)
from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear, ReLU
network = torch.nn.Sequential(Conv2d(1, 8, 3), BatchNorm2d(8), ReLU(), Flatten(), Linear(5408, 10))
torch.nn.functional.cross_entropy(network(torch.rand(16, 1, 28, 28)), torch.arange(16) % 10).backward()
gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
bits = hashlib.sha256(gradients.numpy().tobytes()).hexdigest()
print(bits, torch.cuda.is_available(), torch.distributed.is_gloo_available())
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all packages of this environment but those that only GPUs need."""
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("GNU binutils is not installed")
    installed = Path(str(importlib.metadata.distribution("torch").locate_file("")))
    if not (installed / "nvidia").exists():
        pytest.skip("this PyTorch is not built for CUDA")
    folder = tmp_path_factory.mktemp("packages")
    for path in installed.iterdir():
        if path.name not in ("torch", "nvidia", "triton", "cuda"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(installed / "torch", folder / "torch", copy_function=link_or_copy)
    return folder


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def computed(folder: Path | None) -> subprocess.CompletedProcess[str]:
    """Run COMPUTE with the packages of a folder, or as this environment has them."""
    where = {"PYTHONPATH": str(folder)} if folder else {}
    options = ["-S"] if folder else []  # -S: without this environment's own packages
    command = [sys.executable, *options, "-W", "ignore", "-c", COMPUTE]
    return subprocess.run(command, env=os.environ | where, capture_output=True, text=True)


@pytest.mark.slow
def test_pytorch_with_stubs_computes_the_same_bits_and_finds_no_gpu(packages, monkeypatch, capsys):
    without = computed(packages)
    assert without.returncode != 0
    assert "libcudart" in without.stderr or "libcublas" in without.stderr  # else the stubs would show nothing

    monkeypatch.setattr(sys, "argv", ["cpu_torch.py", str(packages)])
    cpu_torch.main()
    assert "libcudart.so" in capsys.readouterr().out

    with_stubs = computed(packages)
    assert with_stubs.returncode == 0, with_stubs.stderr
    bits, gpu, gloo = with_stubs.stdout.split()
    assert cpu_torch.missing(packages) == {}
    assert (bits, gpu, gloo) == (computed(None).stdout.split()[0], "False", "True")


def test_symbols_without_versions_need_no_script():
    assert cpu_torch.version_script({"cuFileRead": ""}) == ""
    assert cpu_torch.version_script({"a": "V1", "b": "V1"}) == 'V1 { global: "a"; "b"; };'
