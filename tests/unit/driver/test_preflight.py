import socket
from pathlib import Path

import pytest

from trainer import resolve
from trainer.driver import preflight, ray_cluster
from trainer.errors import ConflictError, ResourceError
from trainer.training import device


def test_a_name_with_another_config_is_refused_with_the_difference(record):
    with pytest.raises(ConflictError, match="epochs: 10 → 3"):
        preflight.check_name_is_free(record, resolve.load("seed", None, ["epochs=3"]))


@pytest.mark.parametrize(
    ("options", "cores", "cpus"),
    [
        ([], 8, 8),
        (["workers=2"], 8, 4),
        (["workers=4"], 2, None),
        (["workers=1-4"], 2, 1),
        (["cpus_per_worker=3"], 8, 3),
    ],
)
def test_cores_are_shared_by_the_workers(monkeypatch, options, cores, cpus):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: cores)
    config = resolve.load("seed", None, options)
    if cpus is None:
        with pytest.raises(
            ResourceError, match=r"workers: 4 with 1 CPU core each need 4, and .* has 2; use --workers 2"
        ):
            preflight.check_resources(config)
    else:
        assert preflight.check_resources(config) == cpus


@pytest.mark.parametrize("workers", [999, "3-999"])
def test_too_many_workers_are_refused_for_their_cores(monkeypatch, workers):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: 2)
    words = f"workers: {workers} need at least one CPU core each, and this machine has 2 cores; use --workers 2 or"
    with pytest.raises(ResourceError, match=words):
        preflight.check_worker_count({"workers": workers})
    preflight.check_worker_count({"workers": 2})
    preflight.check_worker_count({"workers": "1-999"})
    preflight.check_worker_count({"workers": "two"})  # the config's check says what is wrong with it
    preflight.check_worker_count({})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight.check_worker_count({"workers": workers})


def test_too_many_cores_per_worker_are_refused_with_both_fixes(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: 4)
    config = resolve.load("seed", None, ["workers=2", "cpus_per_worker=3"])
    with pytest.raises(ResourceError, match="use --workers 1, --cpus-per-worker 2, or run on a cluster"):
        preflight.check_resources(config)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (["workers=2"], True),
        (["workers=2", "gpu=true"], False),
        (["workers=2", "global_batch_size=256"], False),
        ([], False),
    ],
)
def test_small_shares_of_a_batch_on_cpus_are_warned_of(options, warned):
    sentences = preflight.warnings(resolve.load("seed", None, options))
    assert bool(sentences) is warned
    assert all("32, 16 samples each; below 128 on CPUs" in sentence for sentence in sentences)


def test_a_cluster_that_does_not_answer_is_refused_with_its_address():
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS: no Ray cluster answers at 127\.0\.0\.1:9 "):
        ray_cluster.check_address("127.0.0.1:9")
    ray_cluster.check_address("auto")  # for Ray to understand


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "http://127.0.0.1:8265",
            "Ray's dashboard and Jobs API; run .* with RAY_ADDRESS=127.0.0.1:6379",
        ),
        ("ray://head:10001", "Ray Client, which cannot run Ray Train"),
        ("10.0.0.1", "is not a host and a port; write it as HOST:6379"),
        ("host:port", "is not a host and a port"),
        ("[::1]:9", r"no Ray cluster answers at \[::1\]:9"),
    ],
)
def test_an_address_of_something_else_is_refused(monkeypatch, address, words):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=words):
        preflight.check_resources(resolve.load("fast"))


@pytest.mark.parametrize(
    ("kind", "names", "visible", "words"),
    [
        (None, [], None, "this machine has no GPU that PyTorch can use; train without --gpu"),
        ("cuda", [], None, "nvidia-smi lists none; repair the driver, or train without --gpu"),
        ("cuda", [], "0", "nvidia-smi lists none; repair the driver"),
        ("cuda", ["H100"], "", "CUDA_VISIBLE_DEVICES= leaves none"),
        ("cuda", ["H100"], "-1", "CUDA_VISIBLE_DEVICES=-1 leaves none"),
    ],
)
def test_why_there_is_no_gpu_is_said_with_mocked_gpus(monkeypatch, kind, names, visible, words):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "gpu_kind", lambda: kind)
    monkeypatch.setattr(device, "gpu_names", lambda: names)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ResourceError, match=f"gpu: true, but {words}"):
        preflight.check_resources(resolve.load("fast", None, ["gpu=true"]))


def test_an_elastic_run_on_a_mac_needs_a_gpu_for_most_with_mocked_gpus(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "gpu_count", lambda: 1)
    config = resolve.load("fast", None, ["gpu=true", "workers=1-2", "cpus_per_worker=1"])
    monkeypatch.setattr(device, "gpu_kind", lambda: "cuda")
    assert preflight.check_resources(config) == 1
    monkeypatch.setattr(device, "gpu_kind", lambda: "mps")  # Ray does not count it: nothing would hold the second back
    with pytest.raises(ResourceError, match="workers: 2 need a GPU each, and this machine has 1"):
        preflight.check_resources(config)


def test_a_plan_has_what_was_checked(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: 4)
    monkeypatch.chdir(tmp_path)
    config = resolve.load("fast")
    plan = preflight.prepare("new", config, str(tmp_path / "runs"), Path("data"))
    assert (plan.record.place, plan.config) == (str(tmp_path / "runs" / "new"), config)
    assert (plan.data_folder, plan.cpus_per_worker) == (tmp_path / "data", 4)
    assert (plan.fork, plan.finished, plan.damage) == (None, None, ())
    assert list((tmp_path / "runs").iterdir()) == []  # checked, and nothing begun


@pytest.mark.parametrize(("setting", "cpus"), [("cpus_per_worker=3", 3), ("cpus_per_worker=null", 1)])
def test_on_a_cluster_a_worker_gets_what_is_asked_for_or_one_core(monkeypatch, setting, cpus):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        assert preflight.check_resources(resolve.load("fast", None, [setting, "workers=64"])) == cpus


def test_a_fork_is_planned_unless_it_has_finished_already(monkeypatch, record, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: 4)
    asked = []
    monkeypatch.setattr(preflight.fork, "plan", lambda source, *_: asked.append(source.name))
    config = resolve.load("seed")
    preflight.prepare("new", config, str(tmp_path / "runs"), None, fork_of=record)
    assert asked == ["r1"]
    monkeypatch.setattr(preflight.seal, "finished_result", lambda _: ({"status": "finished"}, ()))
    assert preflight.prepare("new", config, str(tmp_path / "runs"), None, fork_of=record).finished
    assert asked == ["r1"]
