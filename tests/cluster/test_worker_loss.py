"""A worker pod deleted in the middle of a run: the job still ends by itself, and ends well."""

import pytest
from cluster import kube
from cluster.kube import get, job_ended, kubectl, name_of, pods, wait_for

from trainer.record import at

RUN = "loses-a-worker"


@pytest.fixture(scope="module")
def run(deployed, store, prometheus):
    """The job of a run that lost a worker after its first epoch, when it was over."""
    kube.forget(store, RUN)
    kube.apply(kube.manifest(RUN, set="epochs=4"))
    wait_for("it has trained an epoch", lambda: prometheus.now(f'ray_trainer_test_accuracy{{run="{RUN}"}}'), 300)
    cluster = get("rayjob", RUN)["status"]["rayClusterName"]
    victim = pods(f"ray.io/cluster={cluster},app.kubernetes.io/component=worker")[-1]
    kubectl("delete", "pod", name_of(victim), "--grace-period=0", "--force")
    return wait_for("the job ends by itself", lambda: job_ended(RUN), 600)


def test_it_ends_by_itself_and_well(run, store):
    assert run["status"]["jobStatus"] == "SUCCEEDED", kube.state()
    result = at(f"{store}/{RUN}").result()
    assert (result["status"], result["epochs"], result["workers"]) == ("finished", 4, 2)


def test_the_record_says_that_a_worker_was_lost_and_that_training_began_again(run, store):
    events = at(f"{store}/{RUN}").events()
    assert any(event["event"] == "worker_failed" for event in events)
    started = [event["attempt"] for event in events if event["event"] == "training_started"]
    assert started == list(range(1, len(started) + 1))
    assert len(started) >= 2
