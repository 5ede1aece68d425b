"""KubeRay's rules, each broken once in the job template that helm/training makes."""

from pathlib import Path

import pytest
import yaml

from trainer.doctor.check import State
from trainer.doctor.job_template import lint

RAYJOB = yaml.safe_load((Path(__file__).parents[3] / "k8s" / "rayjob.yaml").read_text())


def broken(change):
    job = yaml.safe_load(yaml.safe_dump(RAYJOB))
    change(job)
    return [check for check in lint(job) if check.state is not State.GOOD]


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
    "deletion rules": (lambda job: job["spec"].update(deletionStrategy={}), "remove one of them"),
    "Kueue": (queue, "Kueue admits clusters of a fixed size"),
    "retries": (selector, "KubeRay refuses the job"),
    "submission": (lambda job: job["spec"].update(submissionMode="SidecarMode"), "remove submitterPodTemplate"),
    "name": (lambda job: job["metadata"].update(name="a" * 48), "at most 47"),
    "deadline": (lambda job: job["spec"].pop("preRunningDeadlineSeconds"), "would wait without end"),
    "authentication": (lambda job: cluster(job).pop("authOptions"), "anybody who reaches a port of Ray can run code"),
    "image": (lambda job: pod(job)["containers"][0].update(image="other:1"), "the same version everywhere"),
    "rayVersion": (lambda job: cluster(job).update(rayVersion="2.9.0"), "set rayVersion: 2.60.0"),
    "identity": (lambda job: pod(job).pop("serviceAccountName"), "the storage identifies pods by it"),
    "group cpu": (lambda job: group(job).pop("maxReplicas"), "two billion"),
    "group cpu: replicas": (lambda job: group(job).update(replicas=9), "replicas 9 is not in 0 to 2"),
    "group gpu": (lambda job: group(job, 1).pop("resources"), "could not scale up from zero"),
    "group gpu: billed": (lambda job: group(job, 1).update(minReplicas=1, replicas=1), "they are billed all the time"),
    "group cpu: grace": (no_grace, "SIGKILL comes before a worker has saved"),
}


def test_the_charts_own_job_breaks_no_rule():
    (check,) = lint(RAYJOB)
    assert (check.what, check.found, check.state) == ("KubeRay rules", "ok", State.GOOD)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_rule_is_found_with_its_fix(fault):
    change, words = FAULTS[fault]
    found = broken(change)
    assert fault.partition(":")[0] in {check.what for check in found}
    assert [check for check in found if words in f"{check.found} → {check.fix}"], found


@pytest.mark.parametrize(("grace_s", "breaks"), [(59, True), (60, True), (61, False)])
def test_the_grace_period_is_longer_than_the_drain(grace_s, breaks):
    found = broken(lambda job: pod(job).update(terminationGracePeriodSeconds=grace_s))
    assert bool(found) is breaks


@pytest.mark.parametrize(("length", "breaks"), [(47, False), (48, True)])
def test_a_name_has_at_most_47_characters(length, breaks):
    assert bool(broken(lambda job: job["metadata"].update(name="a" * length))) is breaks


@pytest.mark.parametrize(("replicas", "breaks"), [(0, False), (2, False), (3, True)])
def test_replicas_are_between_the_bounds(replicas, breaks):
    assert bool(broken(lambda job: group(job).update(replicas=replicas))) is breaks


def test_a_rayjob_on_a_standing_cluster_has_no_cluster_to_check():
    job = {"metadata": {"name": "x"}, "spec": {"clusterSelector": {"ray.io/cluster": "training"}}}
    job["spec"] |= {"submitterConfig": {"backoffLimit": 2}, "preRunningDeadlineSeconds": 900}
    assert [check.state for check in lint(job)] == [State.GOOD]
