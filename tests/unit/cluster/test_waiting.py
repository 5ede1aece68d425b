"""What a run waits for: when it is announced, and when a follower gives up."""

import pytest
from support.fake_kube import MADE, FakeKube, pod, rayjob

from trainer.cluster import diagnose, waiting
from trainer.cluster.diagnose import Problem
from trainer.cluster.waiting import Waiting, has_lasted_too_long, others_on_cluster
from trainer.errors import ExitCode

STARTING = rayjob(jobDeploymentStatus="Initializing", rayClusterName="r1-x")
STUCK = {
    "name": "ray-head",
    "image": "nope",
    "state": {"waiting": {"reason": "InvalidImageName", "message": "invalid reference format"}},
}
HEAD = pod("h", "head", phase="Pending", containerStatuses=[STUCK])
SELECTOR = {"clusterSelector": {"ray.io/cluster": "training"}}


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def said():
    return []


def check_at(clock, waits, seconds, training=False, pods=(HEAD,)):
    clock[0] = 1000.0 + seconds
    return waits.check(STARTING, list(pods), training)


def test_a_problem_is_announced_when_it_has_lasted(clock, said):
    waits = Waiting(FakeKube(), lambda about, message: said.append((about, message)), passive=False)
    assert check_at(clock, waits, 0) is None
    assert said == []
    assert check_at(clock, waits, 2) is None
    (about, message), *_ = said
    assert about == "image"
    assert message.startswith("image: nope cannot be pulled for head pod h")
    assert message.endswith(".")


def test_a_problem_that_went_away_is_counted_from_its_return(clock, said):
    waits = Waiting(FakeKube(), lambda about, message: said.append(about), passive=False)
    check_at(clock, waits, 0)
    check_at(clock, waits, 2, pods=())
    check_at(clock, waits, 4)
    assert said == []


@pytest.mark.parametrize(("seconds", "gives_up"), [(19.0, False), (20.0, True)])
def test_a_lasting_problem_is_given_up_with_its_facts(clock, said, seconds, gives_up):
    waits = Waiting(FakeKube(), lambda *_: None, passive=False)
    check_at(clock, waits, 0)
    ended = check_at(clock, waits, seconds)
    assert (ended is not None) is gives_up
    if ended:
        assert (ended.status, ended.exit_code, ended.retry) == ("pending", ExitCode.CLUSTER, False)
        assert ended.problem.startswith("image: nope")
        assert ended.fix.startswith("correct image")


@pytest.mark.parametrize(("passive", "training"), [(True, False), (False, True), (True, True)])
def test_nobody_gives_up_who_is_passive_or_whose_run_trains(clock, said, passive, training):
    waits = Waiting(FakeKube(), lambda about, message: said.append(about), passive)
    check_at(clock, waits, 0, training)
    assert check_at(clock, waits, 1000, training) is None
    assert said == ["image"]


def test_a_problem_without_limit_is_never_given_up():
    problem = Problem("queue", "p", "f", ExitCode.RESOURCES)
    assert has_lasted_too_long(problem, 1e9) is False


def test_only_the_runs_own_events_since_its_creation_count(clock, said):
    kube = FakeKube()
    kube.now = diagnose.timestamp(MADE) + 30
    quota = {"reason": "FailedToCreateHeadPod", "type": "Warning", "message": "exceeded quota: training"}

    def event(name, at):
        return {**quota, "involvedObject": {"kind": "RayCluster", "name": name}, "lastTimestamp": at}

    kube.event_list = [event("r2-x", MADE), event("r1-x", "2026-11-24T14:59:59Z")]
    waits = Waiting(kube, lambda about, message: said.append(about), passive=False)
    check_at(clock, waits, 0, pods=())
    check_at(clock, waits, 5, pods=())
    assert said == []
    kube.event_list = [event("r1-x", MADE)]
    check_at(clock, waits, 6, pods=())
    check_at(clock, waits, 9, pods=())
    assert said == ["quota"]


def test_a_training_run_asks_only_for_the_time(clock):
    kube = FakeKube()
    kube.events = kube.nodes = None  # calling them would fail
    check_at(clock, Waiting(kube, lambda *_: None, passive=False), 0, training=True)


def test_nodes_are_asked_for_only_while_a_pod_is_pending(clock):
    kube = FakeKube()
    kube.nodes = None
    running = pod("h", "head", phase="Running")
    assert check_at(clock, Waiting(kube, lambda *_: None, passive=False), 0, pods=[running]) is None


def test_a_full_standing_cluster_is_announced_with_the_other_runs(clock, said):
    mine = rayjob(spec=SELECTOR, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName="training")
    kube = FakeKube(mine, rayjob("r2", spec=SELECTOR, jobStatus="RUNNING"))
    kube.clusters["training"] = {"spec": {"workerGroupSpecs": [{"groupName": "cpu", "maxReplicas": 1}]}}
    worker = pod("w", "worker", cluster="training", phase="Running")
    worker["metadata"]["labels"]["ray.io/group"] = "cpu"
    waits = Waiting(kube, lambda about, message: said.append(message), passive=False)
    waits.check(mine, [worker], training=False)
    clock[0] += 5
    waits.check(mine, [worker], training=False)
    assert len(said) == 1
    assert "r2 may be using them" in said[0]


def test_other_runs_are_the_running_ones_of_the_same_cluster():
    mine = rayjob(spec=SELECTOR, jobStatus="RUNNING")
    other = {"clusterSelector": {"ray.io/cluster": "other"}}
    jobs = [
        mine,
        rayjob("same", spec=SELECTOR, jobStatus="RUNNING"),
        rayjob("done", spec=SELECTOR, jobStatus="SUCCEEDED"),
        rayjob("elsewhere", spec=other, jobStatus="RUNNING"),
        rayjob("own", jobStatus="RUNNING"),
    ]
    assert others_on_cluster(jobs, mine) == ["same"]


@pytest.mark.parametrize(
    "job",
    [
        rayjob(spec=SELECTOR, jobDeploymentStatus="Running", jobStatus="PENDING"),
        rayjob(jobDeploymentStatus="Running", jobStatus="RUNNING"),
    ],
)
def test_a_standing_cluster_is_asked_for_only_while_its_driver_runs(clock, job):
    kube = FakeKube(job)
    kube.raycluster = None
    assert Waiting(kube, lambda *_: None, passive=False).check(job, [], training=False) is None


def test_commands_in_a_problems_fix_name_the_cluster(clock, said):
    waits = Waiting(FakeKube(), lambda about, message: said.append(message), passive=False)
    suspended = rayjob(jobDeploymentStatus="Suspended", suspend=True)
    suspended["spec"]["suspend"] = True
    for seconds in (0, 2):
        clock[0] = 1000.0 + seconds
        waits.check(suspended, [], training=False)
    assert "kubectl --context kind -n training patch rayjob" in said[0]
