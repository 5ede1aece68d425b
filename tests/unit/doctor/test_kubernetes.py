"""The doctor on a cluster in memory."""

import pytest
from support.fake_kube import RAYJOB, FakeKube, line, pod

from trainer.cluster import diagnose, follow, submit, waiting
from trainer.cluster.outcome import Outcome
from trainer.doctor import kubernetes
from trainer.doctor.check import Check, State
from trainer.errors import ClusterError, ExitCode

GPU_GROUP = {
    "groupName": "gpu",
    "minReplicas": 0,
    "maxReplicas": 4,
    "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1", "nvidia.com/gpu": 1}}}]}},
}
GPU_NODE = {"status": {"allocatable": {"nvidia.com/gpu": "1"}}}
FINISHED = {"event": "result", "status": "finished", "exit_code": 0}
OF_POD = Check("cpu", "storage", State.BAD, "s3://runs: no such bucket", "create it", ExitCode.STORAGE)


class Visited(FakeKube):
    """A cluster whose doctor's RayJob gets a status and a log as soon as it is created."""

    def __init__(self, status, log="", pods=()):
        super().__init__()
        self.visit_status = status
        self.visit_log = log
        self.extra_pods = list(pods)

    def create_rayjob(self, job, dry_run=False):
        made = super().create_rayjob(job, dry_run)
        if not dry_run:
            name = job["metadata"]["name"]
            self.jobs[name]["status"] = dict(self.visit_status)
            self.pod_list = [pod(f"{name}-abc", "submitter", name, cluster=None, phase="Running"), *self.extra_pods]
            self.logs[f"{name}-abc"] = self.visit_log
        return made


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(follow, "POLL_EVERY_S", 0.0)
    monkeypatch.setattr(follow, "RESULT_COMES_S", 0.0)
    monkeypatch.setattr(kubernetes, "RESULT_COMES_S", 0.0)
    monkeypatch.setattr(waiting, "CONFIRMED_AFTER_S", 0.0)
    monkeypatch.setattr(diagnose, "seconds", lambda _: 0.0)
    monkeypatch.setattr(submit, "READ_BY_FOLLOWERS_S", 0.0)


@pytest.fixture
def said():
    return []


def by_what(checks):
    return {(check.where, check.what): check for check in checks}


COMPLETE = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}


def test_a_healthy_cluster_is_healthy_from_here_and_from_its_pods(said):
    good = Check("cpu", "storage", State.GOOD, "ok")
    kube = Visited(COMPLETE, line({"event": "check", **good.as_dict()}) + line(FINISHED))
    found = list(kubernetes.checks(kube, said.append))
    assert [check for check in found if check.state is State.BAD] == []
    assert found[-1] == good
    assert {check.what for check in found if check.where == "cluster"} == {"API server", "clock", "rights", "chart"}
    assert by_what(found)["job template rayjob.yaml", "KubeRay rules"].found == "ok"
    assert kube.jobs == {}  # the doctor's own RayJob is gone
    assert said[0].startswith("Starting a Ray cluster with a pod of each group, as RayJob doctor-")


def test_a_check_of_a_pod_is_passed_on_whatever_the_exit_code(said):
    status = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": "failed with exit code 4"}
    log = line({"event": "check", "where": 3}) + line({"event": "check", **OF_POD.as_dict()}) + line(FINISHED)
    assert list(kubernetes.checks(Visited(status, log), said.append))[-1] == OF_POD


def test_pods_that_cannot_start_are_wrong_with_the_problems_fix(said):
    stuck = {
        "name": "ray-head",
        "image": "nope",
        "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "a; b"}},
    }
    head = pod("h", "head", phase="Pending", containerStatuses=[stuck])
    kube = Visited({"jobDeploymentStatus": "Initializing", "rayClusterName": "r1-x"}, pods=[head])
    check = list(kubernetes.checks(kube, said.append))[-1]
    assert (check.where, check.what, check.state, check.code) == ("pods", "start", State.BAD, ExitCode.CLUSTER)
    assert check.found == "image: nope cannot be pulled for head pod h (a; b)"
    assert check.fix.startswith("correct image in the values")
    assert kube.jobs == {}


def test_a_visit_that_says_nothing_names_its_problem_and_a_fix():
    check = kubernetes.not_started(Outcome("finished", ExitCode.OK, "Run doctor finished"))
    assert (check.state, check.code, check.fix) == (State.BAD, ExitCode.CLUSTER, "read its log: trainer logs")
    check = kubernetes.not_started(Outcome("failed", ExitCode.DATA, "p", "f"))
    assert (check.found, check.code, check.fix) == ("p", ExitCode.DATA, "f")


def test_missing_rights_are_named_and_no_pod_is_started(said):
    kube = FakeKube()
    kube.forbidden = {("create", "rayjobs")}
    found = by_what(kubernetes.checks(kube, said.append))
    rights = found["cluster", "rights"]
    assert (rights.state, rights.found, rights.code) == (State.BAD, "you may not create rayjobs", ExitCode.CLUSTER)
    assert "access.subjects" in rights.fix
    assert found["pods", "start"].state is State.WARNING
    assert kube.created == []


def test_a_namespace_without_chart_is_wrong_with_the_errors_fix(said):
    kube = FakeKube()

    def none():
        raise ClusterError("namespace: a; b: c", "install it: make deploy")

    kube.job_templates = none
    check = list(kubernetes.checks(kube, said.append))[-1]
    assert (check.what, check.found, check.fix) == ("chart", "namespace: a; b: c", "install it: make deploy")


def test_a_template_that_is_refused_is_wrong_and_no_pod_is_started(said):
    kube = FakeKube()

    def refuse(job, dry_run=False):
        assert dry_run
        raise ClusterError("admission: x; y", "see the policy")

    kube.create_rayjob = refuse
    found = by_what(kubernetes.checks(kube, said.append))
    admission = found["job template rayjob.yaml", "admission"]
    assert (admission.state, admission.found, admission.fix) == (State.BAD, "admission: x; y", "see the policy")
    assert found["pods", "start"].found == "skipped"


def test_other_entries_of_the_config_map_are_not_templates(said):
    kube = FakeKube()
    kube.forbidden = {("create", "rayjobs")}
    kube.templates = {"rayjob.yaml": RAYJOB, "README": "hello"}
    assert {check.where for check in kubernetes.checks(kube, said.append)} == {
        "cluster",
        "job template rayjob.yaml",
        "pods",
    }


@pytest.mark.parametrize(("nodes", "replicas"), [([GPU_NODE], 1), ([{"status": {"allocatable": {}}}], 0), (None, 0)])
def test_a_visit_has_a_pod_of_each_group_that_some_node_can_hold(nodes, replicas):
    spec = {"rayClusterSpec": {"workerGroupSpecs": [GPU_GROUP]}, "backoffLimit": 2}
    template = {"metadata": {"name": "fashion-mnist", "labels": {}}, "spec": spec}
    job, skipped = kubernetes.visit(template, nodes)
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == replicas
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "doctor"  # not in `trainer list`
    assert [check.where for check in skipped] == ([] if replicas else ["gpu"])
    assert all("no node offers nvidia.com/gpu" in check.found and check.fix for check in skipped)
    assert template["metadata"]["name"] == "fashion-mnist"
