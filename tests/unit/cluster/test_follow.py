"""What the follower does at each turn of a run, on a stand-in for the cluster that plays RayJob states one by one.

That a real cluster goes through such states is shown in tests/cluster/test_submit.py.
"""

import copy
import itertools
import json

import pytest

from trainer import resolve
from trainer.cluster import follow, retries
from trainer.errors import ClusterError, ExitCode, LostConnectionError

CONFIG = resolve.load("fast")
MADE = "2026-11-24T15:00:00Z"
NOW = 1_795_532_410.0  # ten seconds later
RESULT = {"event": "result", "status": "finished", "exit_code": 0, "test_accuracy": 0.9}
FAILED = "Job entrypoint command failed with exit code 6, last available logs (truncated to 20,000 chars):\nError: {}\n"
DIVERGED, DIED = "The loss became nan.", "Training failed: its process or node is gone (ActorDiedError): killed."


class Played:
    """Gives the next state at each look, the last one for ever; an exception is raised instead."""

    def __init__(self, *states, log="", limit=2, pods=(), may_patch=True):
        self.states, self.text, self.limit, self._pods, self.may_patch = list(states), log, limit, pods, may_patch
        self.now, self.patches, self.notes = NOW, [], {}

    def job(self, name):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return None if state is None else make(state, self.limit, self.notes)

    def pods(self):
        submitter = {"app.kubernetes.io/component": "submitter", "batch.kubernetes.io/job-name": "r1"}
        meta = {"name": "r1-abc", "labels": submitter, "creationTimestamp": MADE}
        return [{"metadata": meta, "spec": {"containers": []}, "status": {"phase": "Running"}}, *self._pods]

    def log(self, pod, container, since_s=None):
        return self.text

    def patch(self, name, changes):
        if not self.may_patch:
            raise ClusterError("rights: you may not patch rayjobs.")
        notes = changes.get("metadata", {}).get("annotations", {})
        self.notes.update(notes)
        if "spec" in changes:
            self.patches.append(changes["spec"])

    def events(self):
        return []

    def nodes(self):
        return None


def make(status, limit=2, notes=None):
    status = copy.deepcopy(status)
    meta = {"name": "r1", "namespace": "training", "uid": status.pop("uid", "1"), "creationTimestamp": MADE}
    if status.pop("deleted", False):
        meta["deletionTimestamp"] = MADE
    return {"metadata": {**meta, "annotations": dict(notes or {})}, "spec": {"backoffLimit": limit}, "status": status}


class Shown:
    def __init__(self):
        self.events, self.points = [], []

    def event(self, event):
        self.events.append(event)

    def point(self, point):
        self.points.append(point)

    def close(self):
        pass

    @property
    def said(self):
        return [event["message"] for event in self.events if event["event"] == "cluster"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(follow, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(follow, "RESULT_COMES_S", 0.0)
    monkeypatch.setattr(retries, "DECIDES_S", 0.0)


def line(event):
    return f"2026-11-24T15:00:05Z {event if isinstance(event, str) else json.dumps(event)}\n"


def watch(cluster, **options):
    shown = Shown()
    return follow.Watch(cluster, make({}), CONFIG, shown, **options).until_end(), shown


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "r1-x"}
OVER = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "rayClusterName": "r1-x"}


def failed(sentence, state="Running", count=0):
    return {"jobDeploymentStatus": state, "jobStatus": "FAILED", "failed": count, "message": FAILED.format(sentence)}


LAST_LINE = {"event": "result", "status": "failed", "exit_code": 6, "error": DIVERGED}


def test_a_success_is_written_down_on_the_rayjob_with_the_driver_s_result():
    cluster = Played(RUNNING, OVER, log=line(RESULT))
    ended, shown = watch(cluster)
    assert (ended.code, ended.result["test_accuracy"]) == (ExitCode.OK, 0.9)
    assert json.loads(cluster.notes["trainer/result"])["test_accuracy"] == 0.9
    assert shown.said == ["the driver runs on Ray cluster r1-x"]


def test_the_end_of_the_log_is_not_the_end_of_the_run():
    ended, _ = watch(Played(RUNNING, RUNNING, RUNNING, failed(DIVERGED, "Failed", 3), log=line("Job 'r1' succeeded")))
    assert ended.code == ExitCode.TRAINING


def test_a_failure_that_would_come_again_calls_off_the_next_cluster():
    cluster = Played(RUNNING, failed(DIVERGED))
    ended, _ = watch(cluster)
    assert (ended.code, ended.sentence) == (ExitCode.TRAINING, f"run r1: {DIVERGED}")
    assert cluster.patches == [{"backoffLimit": 0}]
    assert json.loads(cluster.notes["trainer/result"])["exit_code"] == ExitCode.TRAINING


def test_one_that_is_already_being_replaced_is_suspended():
    cluster = Played(RUNNING, failed(DIVERGED, "Retrying", 1))
    ended, _ = watch(cluster)
    assert ended.code == ExitCode.TRAINING
    assert cluster.patches == [{"suspend": True}]


@pytest.mark.parametrize(("then", "more"), [("Failed", []), ("Retrying", [{"suspend": True}])])
def test_the_driver_s_last_line_calls_off_the_next_cluster_before_kuberay_looks(monkeypatch, then, more):
    monkeypatch.setattr(retries, "DECIDES_S", 60.0)
    cluster = Played(RUNNING, RUNNING, failed(DIVERGED, then, 1), log=line(LAST_LINE))
    ended, _ = watch(cluster)
    assert (ended.code, ended.sentence) == (ExitCode.TRAINING, f"run r1: {DIVERGED}")
    assert cluster.patches == [{"backoffLimit": 0}, *more]


def test_an_attempt_that_kuberay_began_between_two_looks_is_suspended_and_the_driver_s_words_are_kept():
    forgotten = {"jobDeploymentStatus": "Initializing", "rayClusterName": "r1-y", "failed": 1}
    cluster = Played(RUNNING, forgotten, log=line(LAST_LINE))
    ended, _ = watch(cluster)
    assert (ended.code, ended.sentence) == (ExitCode.TRAINING, f"run r1: {DIVERGED}")
    assert cluster.patches[-1] == {"suspend": True}


def test_the_last_line_of_one_attempt_is_not_that_of_the_next():
    late = {"jobDeploymentStatus": "Failed", "jobStatus": "", "reason": "PreRunningDeadlineExceeded", "failed": 2}
    died = line({**LAST_LINE, "error": DIED})
    ended, _ = watch(Played(RUNNING, failed(DIED, "Retrying", 1), RUNNING, late, log=died))
    assert "preRunningDeadlineSeconds" in ended.sentence


def test_a_failure_that_may_pass_is_followed_into_the_next_attempt():
    cluster = Played(RUNNING, failed(DIED), failed(DIED, "Retrying", 1), RUNNING, OVER, log=line(RESULT))
    cluster.text = ""
    ended, shown = watch(cluster)
    assert ended.code == ExitCode.OK
    assert cluster.patches == []
    assert any(DIED in said and "KubeRay tries again" in said for said in shown.said)


def test_the_last_attempt_s_failure_is_the_run_s():
    ended, _ = watch(Played(RUNNING, failed(DIED, "Running", 2)))
    assert ended.code == ExitCode.TRAINING


def test_who_only_looks_changes_nothing_of_the_retries():
    cluster = Played(failed(DIVERGED, "Retrying", 1), OVER)
    watch(cluster, looks=True)
    assert cluster.patches == []


def test_a_user_who_may_not_patch_still_gets_the_truth():
    ended, shown = watch(Played(failed(DIVERGED), may_patch=False))
    assert ended.code == ExitCode.TRAINING
    assert any("may not patch" in said for said in shown.said)


@pytest.mark.parametrize("last", [None, {**RUNNING, "deleted": True}, {**RUNNING, "uid": "2"}])
def test_a_rayjob_that_was_removed_or_made_anew_is_a_stopped_run(last):
    ended, _ = watch(Played(RUNNING, last))
    assert ended.code == ExitCode.INTERRUPTED


def test_a_rayjob_that_was_removed_after_its_success_had_succeeded(monkeypatch):
    monkeypatch.setattr(follow, "RESULT_COMES_S", 60.0)  # the result was still waited for
    ended, _ = watch(Played(OVER, None))
    assert ended.code == ExitCode.OK


def test_a_lost_connection_is_said_once_and_waited_out():
    lost = LostConnectionError("cluster: no answer.")
    ended, shown = watch(Played(RUNNING, lost, lost, lost, OVER, log=line(RESULT)))
    assert ended.code == ExitCode.OK
    assert sum("The run goes on, and is asked for again" in said for said in shown.said) == 1
    assert sum("connected again after" in said for said in shown.said) == 1


def test_an_api_server_that_restarts_may_refuse_for_a_moment_but_not_for_a_minute(monkeypatch):
    refused, lost = ClusterError("rights: you may not get rayjobs."), LostConnectionError("cluster: no answer.")
    ended, shown = watch(Played(RUNNING, lost, refused, refused, OVER, log=line(RESULT)))
    assert ended.code == ExitCode.OK
    assert sum("you may not get rayjobs" in said for said in shown.said) == 1
    monkeypatch.setattr(follow, "REFUSED_FOR_GOOD_S", -1.0)
    with pytest.raises(ClusterError, match="may not get"):
        watch(Played(RUNNING, refused))


def test_the_minute_begins_with_the_refusal_not_with_the_silence_before_it(monkeypatch):
    now = itertools.count(0.0, 40.0)
    monkeypatch.setattr(follow.time, "monotonic", lambda: next(now))
    refused, lost = ClusterError("rights: you may not get rayjobs."), LostConnectionError("cluster: no answer.")
    ended, _ = watch(Played(RUNNING, lost, lost, lost, refused, OVER, log=line(RESULT)))
    assert ended.code == ExitCode.OK


def test_a_connection_that_stays_lost_ends_the_wait_but_not_the_run(monkeypatch):
    monkeypatch.setattr(follow, "LOST_FOR_GOOD_S", -1.0)
    with pytest.raises(LostConnectionError):
        watch(Played(LostConnectionError("cluster: no answer.")))


def pod(name, component, **status):
    labels = {"app.kubernetes.io/component": component, "ray.io/cluster": "r1-x"}
    meta = {"name": name, "labels": labels, "creationTimestamp": MADE}
    return {"metadata": meta, "spec": {"containers": [{"name": "ray-head", "image": "nope"}]}, "status": status}


def test_a_head_that_was_replaced_is_said():
    cluster = Played(RUNNING, RUNNING, RUNNING, OVER, log=line(RESULT))
    cluster.pods_before = cluster.pods
    heads = iter(["a", "b", "b", "b"])
    cluster.pods = lambda: [*cluster.pods_before(), pod(next(heads), "head", phase="Running")]
    _, shown = watch(cluster)
    assert sum(said.startswith("head a is gone; b takes its place") for said in shown.said) == 1


STUCK = {"name": "ray-head", "image": "nope", "state": {"waiting": {"reason": "InvalidImageName", "message": "x"}}}


def test_what_holds_a_run_up_for_good_is_given_up_and_the_rayjob_is_left(monkeypatch):
    monkeypatch.setattr(follow.diagnose, "SETTLES_S", 0.0)
    starting = {"jobDeploymentStatus": "Initializing", "rayClusterName": "r1-x"}
    cluster = Played(starting, pods=[pod("h", "head", phase="Pending", containerStatuses=[STUCK])])
    ended, shown = watch(cluster)
    assert (ended.status, ended.code) == ("held up", ExitCode.CLUSTER)
    assert "`trainer stop r1` ends it" in ended.sentence
    assert any("nope cannot be pulled" in said for said in shown.said)
    assert "trainer/result" not in cluster.notes


def test_a_run_that_has_trained_is_not_given_up_for_what_it_lost(monkeypatch):
    monkeypatch.setattr(follow.diagnose, "SETTLES_S", 0.0)
    began = line({"event": "training_started", "time": 1.0})
    lost = [pod("h", "head", phase="Pending", containerStatuses=[STUCK])]
    cluster = Played(RUNNING, RUNNING, RUNNING, OVER, log=began + line(RESULT), pods=lost)
    ended, shown = watch(cluster)
    assert ended.code == ExitCode.OK
    assert any("nope cannot be pulled" in said for said in shown.said)
