from pathlib import Path

import pytest

from trainer import resolve
from trainer.cluster import rayjob, worker_groups
from trainer.errors import ResourceError

RAYJOB = (Path(__file__).parents[3] / "k8s" / "rayjob.yaml").read_text()  # what the chart makes on kind
TEMPLATES = {"rayjob.yaml": RAYJOB}


def config(*overrides):
    return resolve.load("fast", None, overrides, "workers: 2\ncpus_per_worker: 1\n")


def job(settings):
    return rayjob.build(TEMPLATES, "own", "r1", "fast", settings)


def replicas(made):
    return {group["groupName"]: group["replicas"] for group in made["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["workers=1"], {"cpu": 1, "gpu": 0}),
        (["workers=2"], {"cpu": 2, "gpu": 0}),
        (["workers=1-2"], {"cpu": 1, "gpu": 0}),
        (["workers=1", "gpu=true"], {"cpu": 0, "gpu": 1}),
    ],
)
def test_the_cluster_starts_with_the_pods_the_workers_need(overrides, expected):
    assert replicas(job(config(*overrides))) == expected


def test_several_workers_share_a_pod_with_enough_cores():
    made = rayjob.manifest(TEMPLATES, "own", "r1", "fast", config())
    group = made["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "3500m"  # Ray counts 4
    assert worker_groups.workers_per_pod(group, config()) == 4
    assert worker_groups.pods_for(group, config("workers=8"), 8) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["workers=4"],
            "workers: 4 do not fit into any worker group without GPUs .cpu: at most 2 pods.*use --workers 2",
        ),
        (["workers=2", "gpu=true"], "workers: 2 do not fit.*gpu: at most 1 pods of 1 cores and 1 GPUs.*--workers 1"),
        (["cpus_per_worker=2"], "no worker group without GPUs has pods with 2 CPU cores"),
    ],
)
def test_workers_that_fit_no_group_are_refused(overrides, words):
    with pytest.raises(ResourceError, match=words):
        job(config(*overrides))


def test_a_group_of_several_hosts_has_that_many_pods_per_replica():
    assert worker_groups.max_pods({"maxReplicas": 2, "numOfHosts": 4}) == 8
    assert worker_groups.max_pods({"maxReplicas": 2}) == 2


@pytest.mark.parametrize(("workers", "pods"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_pods_are_rounded_up_to_hold_all_workers(workers, pods):
    resources = {"limits": {"cpu": "4"}}
    group = {"template": {"spec": {"containers": [{"resources": resources}]}}}
    assert worker_groups.pods_for(group, config(), workers) == pods


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cpus_per_worker=64"], "no worker group without GPUs has pods with 64 CPU cores ("),
        (["cpus_per_worker=64", "gpu=true"], "no worker group with GPUs has pods with 64 CPU cores and a GPU ("),
    ],
)
def test_what_no_group_has_is_said_with_the_gpu_only_where_it_is_needed(overrides, words):
    with pytest.raises(ResourceError) as error:
        job(config(*overrides))
    assert words in str(error.value)
