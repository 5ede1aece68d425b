"""A group of GPU workers. The GPUs are only counted by a node of the test cluster: there are no real ones, and so the
run itself must end with the sentence that PyTorch sees none."""

import json

import pytest
from support import kube
from support.kube import get, job_ended, kubectl, name_of, pods, wait_for

from trainer.storage.mirror import open_record

RUN = "gpus"


@pytest.fixture(scope="module")
def gpu_node(deployed):
    """A worker node that says it has two GPUs."""
    node = f"{kube.CLUSTER}-worker2"
    gpus = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "2"}]
    kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(gpus))
    wait_for("the GPUs are allocatable", lambda: get("node", node)["status"]["allocatable"].get("nvidia.com/gpu"), 60)
    yield node
    gone = [{"op": "remove", "path": "/status/capacity/nvidia.com~1gpu"}]
    kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(gone))


@pytest.fixture(scope="module")
def run(gpu_node, store):
    """A run that asks for one GPU; the GPU and CPU workers that were seen, and the job when it was over."""
    kube.forget(store, RUN)
    job = kube.manifest(RUN, workers="1")
    job["spec"]["entrypoint"] += " --gpu"
    job["spec"]["backoffLimit"] = 0  # there will be no GPU the next time either
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        group["replicas"] = 0  # each group is to come from zero
    kube.apply(job)
    seen = {}

    def over():
        for pod in pods("app.kubernetes.io/component=worker"):
            if pod["metadata"]["labels"]["ray.io/cluster"].startswith(RUN):
                seen[name_of(pod)] = pod
        return job_ended(RUN)

    return seen, wait_for("the run is over", over, 420)


def test_a_run_that_asks_for_a_gpu_gets_one_gpu_worker_and_no_other(run):
    seen, _ = run
    assert [pod["metadata"]["labels"]["ray.io/group"] for pod in seen.values()] == ["gpu"]


def test_the_worker_is_on_the_node_with_the_gpus_and_holds_one(run, gpu_node):
    (pod,) = run[0].values()
    assert pod["spec"]["nodeName"] == gpu_node
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_without_a_real_gpu_the_run_fails_with_the_sentence_for_it(run, store):
    _, job = run
    assert job["status"]["jobStatus"] == "FAILED"
    result = open_record(f"{store}/{RUN}").result()
    assert result["status"] == "failed"
    assert "gpu: true, but PyTorch" in result["error"]


def test_the_worker_goes_away_with_the_run(run):
    wait_for("no GPU worker is left", lambda: not pods("ray.io/group=gpu"), 180)
    kubectl("delete", "rayjob", RUN)
