"""KubeRay's rules, each broken once in the job template that helm/training makes."""

from pathlib import Path

import pytest
import yaml

from trainer.doctor.job_template import lint
from trainer.doctor.machine import State

RAYJOB = yaml.safe_load((Path(__file__).parents[3] / "k8s" / "rayjob.yaml").read_text())


def broken(change):
    job = yaml.safe_load(yaml.safe_dump(RAYJOB))
    change(job)
    return [each for each in lint(job) if each.state is not State.GOOD]


def cluster(job):
    return job["spec"]["rayClusterSpec"]


def group(job, index=0):
    return cluster(job)["workerGroupSpecs"][index]


def pod(job, index=0):
    return group(job, index)["template"]["spec"]


def no_grace(job):
    pod(job)["terminationGracePeriodSeconds"] = 30


def queue(job):
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"


def selector(job):
    job["spec"]["clusterSelector"] = {"ray.io/cluster": "training"}


FAULTS = {
    "autoscaler": (lambda job: cluster(job)["autoscalerOptions"].pop("version"), "write version: v2"),
    "clean-up": (lambda job: job["spec"].pop("shutdownAfterJobFinishes"), "would outlive the run"),
    "deletion rules": (lambda job: job["spec"].update(deletionStrategy={}), "remove the other"),
    "Kueue": (queue, "Kueue admits fixed sizes"),
    "retries": (selector, "KubeRay refuses the job"),
    "submission": (lambda job: job["spec"].update(submissionMode="SidecarMode"), "remove submitterPodTemplate"),
    "name": (lambda job: job["metadata"].update(name="a" * 48), "at most 47"),
    "deadline": (lambda job: job["spec"].pop("preRunningDeadlineSeconds"), "waits for ever"),
    "authentication": (lambda job: cluster(job).pop("authOptions"), "who reaches a port can run code"),
    "image": (lambda job: pod(job)["containers"][0].update(image="other:1"), "one version everywhere"),
    "rayVersion": (lambda job: cluster(job).update(rayVersion="2.9.0"), "set rayVersion: 2.60.0"),
    "identity": (lambda job: pod(job).pop("serviceAccountName"), "storage goes by it"),
    "group cpu": (lambda job: group(job).pop("maxReplicas"), "two billion"),
    "group cpu: replicas": (lambda job: group(job).update(replicas=9), "replicas 9 is not in 0 to 2"),
    "group gpu": (lambda job: group(job, 1).pop("resources"), "would not start from zero"),
    "group gpu: billed": (lambda job: group(job, 1).update(minReplicas=1, replicas=1), "they are billed"),
    "group cpu: grace": (no_grace, "SIGKILL comes before a worker has saved"),
}


def test_the_chart_s_own_job_breaks_no_rule():
    assert [each.what for each in lint(RAYJOB)] == ["KubeRay's rules"]
    assert lint(RAYJOB)[0].state is State.GOOD


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_rule_is_found_with_its_fix(fault):
    change, words = FAULTS[fault]
    found = broken(change)
    assert fault.partition(":")[0] in {each.what for each in found}
    assert [each for each in found if words in f"{each.found} → {each.fix}"], found
