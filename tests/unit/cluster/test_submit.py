"""Submitting, stopping and removing runs in a namespace in memory."""

import pytest
from support.fake_kube import COMPLETE, RUNNING, FakeKube, pod, rayjob, submitter

from trainer.cluster import submit as submitting
from trainer.cluster.api import AlreadyExistsError
from trainer.cluster.submit import has_failed, pods_of, remove, stop, submit
from trainer.errors import ClusterError, ConfigError, ConflictError, InterruptedRunError, NoSuchRunError, ResourceError

FAILED = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": "failed with exit code 6", "failed": 3}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(submitting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(submitting.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def said():
    return []


@pytest.fixture
def go(said):
    def go(kube, name="r1", cluster="own", overrides=(), recipe=None, dry_run=False):
        return submit(kube, name, cluster, recipe, None, overrides, said.append, dry_run)

    return go


def test_a_submit_creates_one_rayjob_with_the_clusters_settings(go, said):
    kube = FakeKube()
    run = go(kube, overrides=["epochs=3"])
    assert run.created
    assert (run.config.epochs, run.config.workers) == (3, 2)
    assert [job["metadata"]["name"] for job in kube.created] == ["r1"]
    assert said == []


@pytest.mark.parametrize("status", [{}, RUNNING, COMPLETE, {**FAILED, "jobDeploymentStatus": "Retrying"}])
def test_a_run_that_has_not_failed_is_joined(go, status):
    kube = FakeKube()
    go(kube)
    kube.jobs["r1"]["status"] = status
    run = go(kube)
    assert not run.created
    assert run.job["status"] == status
    assert len(kube.created) == 1
    assert kube.deleted == []


@pytest.mark.parametrize("status", [FAILED, {"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}])
def test_a_run_that_failed_gets_a_new_rayjob(go, said, status):
    kube = FakeKube()
    go(kube)
    kube.jobs["r1"]["status"] = status
    assert go(kube).created
    assert kube.deleted == ["made-0"]
    assert len(kube.created) == 2
    assert said == ["Run r1 did not finish last time; replacing its RayJob and resuming from the last checkpoint."]


def test_another_config_is_refused_and_nothing_is_removed(go):
    kube = FakeKube()
    go(kube)
    kube.jobs["r1"]["status"] = FAILED
    with pytest.raises(ConflictError, match="epochs"):
        go(kube, overrides=["epochs=7"])
    assert kube.deleted == []


def test_a_faster_submit_of_the_same_run_is_joined(go):
    kube = FakeKube()
    create = kube.create_rayjob

    def create_late(job, dry_run=False):
        create(job)
        raise AlreadyExistsError("rayjobs r1 already exists")

    kube.create_rayjob = create_late
    assert not go(kube).created


def test_a_dry_run_asks_the_cluster_and_changes_nothing(go):
    kube = FakeKube()
    asked = []
    create = kube.create_rayjob
    kube.create_rayjob = lambda job, dry_run=False: asked.append(dry_run) or create(job, dry_run)
    assert go(kube, dry_run=True).created
    assert (asked, kube.jobs) == ([True], {})
    go(kube)
    kube.jobs["r1"]["status"] = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}
    assert not go(kube, dry_run=True).created
    assert (kube.deleted, kube.patches) == ([], [])


def test_a_name_that_comes_and_goes_is_a_conflict_that_may_be_retried(go):
    kube = FakeKube()
    kube.create_rayjob = lambda job, dry_run=False: (_ for _ in ()).throw(AlreadyExistsError("r1 already exists"))
    with pytest.raises(ConflictError, match="another submit of r1 in training is in progress; try again") as taken:
        go(kube)
    assert taken.value.retry


@pytest.mark.parametrize("name", ["1st", "Upper"])
def test_a_bad_name_is_refused_before_the_cluster_is_asked(go, name):
    kube = FakeKube()
    kube.is_allowed = None
    with pytest.raises(ConfigError, match="name"):
        go(kube, name)


def test_missing_rights_are_named_together(go):
    kube = FakeKube()
    kube.forbidden = {("create", "rayjobs"), ("get", "pods/log"), ("get", "rayclusters")}
    with pytest.raises(ClusterError, match="you may not create rayjobs, get rayclusters, get pods/log in namespace"):
        go(kube)
    assert kube.created == []


def test_workers_that_fit_no_group_are_refused(go):
    kube = FakeKube()
    with pytest.raises(ResourceError, match="use --workers 2"):
        go(kube, overrides=["workers=3"])
    assert kube.created == []


STANDING = (
    "metadata: {name: x}\nspec:\n  entrypoint: trainer train --name x\n  clusterSelector: {ray.io/cluster: training}\n"
)
RESOURCES = {"limits": {"cpu": "1"}}
GROUP = {
    "groupName": "cpu",
    "maxReplicas": 2,
    "template": {"spec": {"containers": [{"resources": RESOURCES}]}},
}


@pytest.fixture
def standing():
    kube = FakeKube()
    kube.templates["rayjob-standing.yaml"] = STANDING
    return kube


def test_a_standing_cluster_must_exist(go, standing):
    with pytest.raises(ClusterError, match="has no RayCluster training; use --cluster own"):
        go(standing, cluster="standing")


def test_a_standing_cluster_must_hold_the_workers(go, standing):
    standing.clusters["training"] = {"spec": {"workerGroupSpecs": [GROUP]}}
    assert go(standing, cluster="standing").created
    with pytest.raises(ResourceError):
        go(standing, "r2", cluster="standing", overrides=["workers=3"])


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        (FAILED, True),
        (RUNNING, False),
        (COMPLETE, False),
        ({}, False),
        ({**FAILED, "jobDeploymentStatus": "Retrying"}, False),
    ],
)
def test_a_run_has_failed_when_it_ended_without_finishing(status, failed):
    assert has_failed(rayjob(**status)) is failed


def test_stop_says_who_and_removes_the_pods_and_leaves_a_suspended_rayjob(clock):
    kube = FakeKube(rayjob(**RUNNING))
    stopped = stop(kube, "r1")
    assert (stopped.job["metadata"]["name"], kube.deleted, kube.pod_list) == ("r1", ["1"], [])
    assert "@" in kube.patches[0]["metadata"]["annotations"]["trainer/stopped-by"]
    assert kube.jobs["r1"]["spec"]["suspend"] is True
    assert clock[0] >= 3.0  # followers poll every two seconds


def test_stop_names_the_known_runs_if_there_is_no_such_run():
    kube = FakeKube(rayjob("r2"), *(rayjob(f"old-{number}") for number in range(20)))
    with pytest.raises(
        NoSuchRunError, match=r"there is no run r1 in training of kind, which has .*old-19; "
    ) as missing:
        stop(kube, "r1")
    assert "r2" not in missing.value.problem  # the last eight only
    assert "--storage" in missing.value.fix
    with pytest.raises(NoSuchRunError, match="which has none"):
        stop(FakeKube(), "r1")


def test_remove_waits_for_the_pods(clock):
    kube = FakeKube(rayjob(**RUNNING))
    left = [[submitter()], [pod("h", "head")], []]
    kube.pods = lambda: left.pop(0)
    remove(kube, rayjob(**RUNNING))
    assert left == []
    assert clock[0] == 2.0


def test_remove_gives_up_on_pods_that_stay(clock):
    kube = FakeKube(rayjob(**RUNNING))
    kube.pods = lambda: [submitter()]
    with pytest.raises(InterruptedRunError, match="pods still exist after 180 s"):
        remove(kube, rayjob(**RUNNING))


def test_remove_leaves_a_later_rayjob_of_the_name():
    kube = FakeKube(rayjob(uid="2", **RUNNING))
    kube.pod_list = []
    asked = []
    kube.delete_rayjob = asked.append
    remove(kube, rayjob(uid="1"))
    assert [job["metadata"]["uid"] for job in asked] == ["1"]
    assert "r1" in kube.jobs


def test_remove_waits_for_the_ray_cluster_that_came_meanwhile():
    kube = FakeKube(rayjob(**RUNNING))
    left = [[pod("h", "head")], []]
    kube.pods = lambda: left.pop(0)
    remove(kube, rayjob())
    assert left == []


def test_the_pods_of_a_run_are_its_submitters_and_its_own_clusters():
    mine = [submitter(), pod("h", "head"), pod("w", "worker")]
    kube = FakeKube(pods=[*mine, submitter("r2", "r2-abc"), pod("h2", "head", cluster="r2-x")])
    assert pods_of(kube, rayjob(**RUNNING)) == mine
    assert pods_of(kube, rayjob()) == [submitter()]
    standing = rayjob(spec={"clusterSelector": {"ray.io/cluster": "r1-x"}}, **RUNNING)
    assert pods_of(kube, standing) == [submitter()]
