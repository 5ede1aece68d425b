"""`helm upgrade` with changed values makes a standing cluster, and two runs use it one after another."""

import subprocess

import pytest
from support import cluster_cli, kube
from support.kube import ROOT, get, job_ended, kubectl, name_of, pods, wait_for

from trainer.storage.mirror import open_record

UPGRADE = ["--set", "cluster.enabled=true", "--set", "autoscaler.idleTimeoutSeconds=15", "--set", "train.epochs=1"]


def helm(*arguments):
    command = ["helm", "--kube-context", kube.CONTEXT, "--namespace", "training", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def upgraded(deployed):
    """The chart with other values; the token before and after."""
    before = kube.secret("training-token", "auth_token")
    values = ["--values", str(ROOT / "k8s" / "kind" / "training.yaml")]
    helm("upgrade", "training", str(ROOT / "helm" / "training"), *values, *UPGRADE)
    yield before, kube.secret("training-token", "auth_token")
    helm("upgrade", "training", str(ROOT / "helm" / "training"), *values)
    wait_for("the standing cluster is gone", lambda: not workers() and not heads(), 180)


def workers():
    return pods("ray.io/cluster=training,app.kubernetes.io/component=worker")


def heads():
    return pods("ray.io/cluster=training,app.kubernetes.io/component=head")


def by_kubectl(name):
    kube.apply(kube.manifest(name, "rayjob-standing.yaml"))


class Submitted:
    """`trainer submit` of one run, and how it ended."""

    def __call__(self, name):
        self.command = cluster_cli.start("submit", "--name", name, "--workers", "2", "--cluster", "standing")


@pytest.fixture(scope="module")
def submitted():
    return Submitted()


@pytest.fixture(scope="module")
def runs(upgraded, store, submitted):
    """Two runs on the standing cluster, one by kubectl and one by `trainer submit`: names, jobs, and the workers and
    heads each had.
    """
    wait_for("the standing head runs", ready_head, 240)
    assert workers() == []
    seen = []
    for name, start in (("first", by_kubectl), ("second", submitted)):
        kube.forget(store, name)
        start(name)
        most = 0

        def over(name=name):
            nonlocal most
            most = max(most, len(workers()))
            return job_ended(name)

        seen.append((name, wait_for(f"run {name} ends", over, 420), most, [name_of(pod) for pod in heads()]))
    wait_for("the workers are gone again", lambda: not workers(), 240)
    return seen


def ready_head():
    return [
        pod for pod in heads() if all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": 0}]))
    ]


def test_an_upgrade_keeps_the_token_and_changes_the_settings_of_runs(upgraded):
    before, after = upgraded
    assert before == after
    assert "epochs: 1" in get("configmap", "training-config")["data"]["train.yaml"]


def test_two_runs_one_after_another_share_one_head_and_both_succeed(runs, store):
    assert [(name, job["status"]["jobStatus"]) for name, job, *_ in runs] == [
        ("first", "SUCCEEDED"),
        ("second", "SUCCEEDED"),
    ]
    assert len({head for *_, heads in runs for head in heads}) == 1
    assert [open_record(f"{store}/{name}").result()["epochs"] for name, *_ in runs] == [1, 1]


def test_submit_followed_the_run_on_the_standing_cluster_to_its_end(runs, submitted, store):
    assert submitted.command.wait(60) == 0, submitted.command.text
    assert submitted.command.saw("the driver runs on Ray cluster training")
    accuracy = open_record(f"{store}/second").result()["test_accuracy"]
    assert submitted.command.saw(f"Run second finished: test accuracy {accuracy:.2%}")


def test_workers_came_from_none_for_the_runs_and_went_back_to_none(runs):
    assert max(most for _, _, most, _ in runs) == 2
    assert workers() == []
    assert get("raycluster", "training")["status"]["state"] == "ready"  # the cluster itself stays


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_run_that_is_deleted_leaves_nothing_of_its_own(runs, name):
    kubectl("delete", "rayjob", name)
    submitter = f"ray.io/originated-from-cr-name={name}"
    wait_for("its submitter is gone", lambda: not get("jobs,pods", selector=submitter), 60)
