"""What the follower does at each turn of a run, on a stand-in for the cluster that plays RayJob states one by one.

That a real cluster goes through such states is shown in tests/cluster/test_submit.py.
"""

import json

import pytest
from support import hostile
from support.fake_kube import COMPLETE, RESULT, RUNNING, FakeKube, Shown, line, pod, rayjob
from support.points import EPOCH, POINT

from trainer import resolve
from trainer.cluster import diagnose, follow, patience, retries, waiting
from trainer.cluster.follow import state_in_words
from trainer.errors import ClusterError, ExitCode, LostConnectionError
from trainer.observe.display import PlainDisplay

CONFIG = resolve.load("fast")
MESSAGE = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}\n"
PROBLEM = "The loss became nan"
DIVERGED = {"event": "result", "status": "failed", "exit_code": 9, "error": f"{PROBLEM}.", "problem": PROBLEM}
DIVERGED |= {"fix": "", "retry": False}
DIED = {**DIVERGED, "exit_code": 6, "problem": "a node was lost", "error": "a node was lost.", "retry": True}


class Played(FakeKube):
    """Gives the next RayJob status at each poll, the last one from then on; an exception is raised instead."""

    def __init__(self, *states, log="", pods=None, may_patch=True):
        super().__init__(rayjob(), log=log)
        self.pod_list += pods or []
        self.states = list(states)
        self.may_patch = may_patch
        self.polls = 0

    def rayjob(self, name):
        self.polls += 1
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        if state is None:
            return None
        stored = self.jobs["r1"]
        return rayjob(annotations=stored["metadata"]["annotations"], spec=stored["spec"], **state)

    def patch_rayjob(self, name, changes):
        if not self.may_patch:
            raise ClusterError("rights: you may not patch rayjobs")
        super().patch_rayjob(name, changes)

    @property
    def annotations(self):
        return self.jobs["r1"]["metadata"]["annotations"]

    @property
    def spec_patches(self):
        return [changes["spec"] for changes in self.patches if "spec" in changes]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(follow, "POLL_EVERY_S", 0.0)
    monkeypatch.setattr(follow, "RESULT_COMES_S", 0.0)
    monkeypatch.setattr(retries, "DECISION_S", 0.0)
    monkeypatch.setattr(waiting, "CONFIRMED_AFTER_S", 0.0)


def watch(kube, **options):
    shown = Shown()
    return follow.Watch(kube, rayjob(), CONFIG, shown, **options).until_end(), shown


def failed(result, state="Running", count=0):
    message = MESSAGE.format(result["exit_code"], json.dumps(result))
    return {"jobDeploymentStatus": state, "jobStatus": "FAILED", "failed": count, "message": message}


def test_a_success_is_written_to_the_rayjob_with_the_result():
    kube = Played(RUNNING, COMPLETE, log=line(RESULT))
    ended, shown = watch(kube)
    assert (ended.exit_code, ended.result["test_accuracy"]) == (ExitCode.OK, 0.9)
    assert json.loads(kube.annotations["trainer/result"])["test_accuracy"] == 0.9
    assert shown.messages == ["the driver runs on Ray cluster r1-x"]


def test_the_end_of_the_log_is_not_the_end_of_the_run():
    kube = Played(RUNNING, RUNNING, RUNNING, failed(DIVERGED, "Failed", 3), log=line("Job 'r1' succeeded"))
    ended, _ = watch(kube)
    assert ended.exit_code == ExitCode.DIVERGED
    assert kube.polls == 4


def test_the_result_is_waited_for_until_the_rayjob_is_complete():
    succeeded = {**COMPLETE, "jobDeploymentStatus": "Running"}
    kube = Played(succeeded, succeeded, COMPLETE, COMPLETE)
    ended, _ = watch(kube)
    assert (ended.status, ended.result) == ("finished", None)
    assert kube.polls == 3


def test_the_result_of_a_complete_rayjob_may_come_late(monkeypatch):
    monkeypatch.setattr(follow, "RESULT_COMES_S", 60.0)
    kube = Played(COMPLETE)
    shown = Shown()
    watched = follow.Watch(kube, rayjob(), CONFIG, shown)
    assert watched.poll() is None
    kube.logs["r1-abc"] = line(RESULT)
    assert watched.poll().result["test_accuracy"] == 0.9
    assert watched.result["test_accuracy"] == 0.9


def test_a_failure_that_would_repeat_stops_the_retries():
    kube = Played(RUNNING, failed(DIVERGED))
    ended, _ = watch(kube)
    assert (ended.exit_code, ended.sentence) == (ExitCode.DIVERGED, f"run r1: {PROBLEM}.")
    assert kube.spec_patches == [{"backoffLimit": 0}]
    assert json.loads(kube.annotations["trainer/result"])["exit_code"] == ExitCode.DIVERGED


def test_a_retry_that_has_begun_is_suspended():
    kube = Played(RUNNING, failed(DIVERGED, "Retrying", 1))
    ended, _ = watch(kube)
    assert ended.exit_code == ExitCode.DIVERGED
    assert kube.spec_patches == [{"suspend": True}]


@pytest.mark.parametrize(("then", "more"), [("Failed", []), ("Retrying", [{"suspend": True}])])
def test_the_drivers_last_line_stops_retries_before_kuberay_decides(monkeypatch, then, more):
    monkeypatch.setattr(retries, "DECISION_S", 60.0)
    kube = Played(RUNNING, RUNNING, failed(DIVERGED, then, 1), log=line(DIVERGED))
    ended, _ = watch(kube)
    assert (ended.exit_code, ended.sentence) == (ExitCode.DIVERGED, f"run r1: {PROBLEM}.")
    assert kube.spec_patches == [{"backoffLimit": 0}, *more]


def test_a_retry_between_two_polls_is_suspended_with_the_drivers_words():
    forgotten = {"jobDeploymentStatus": "Initializing", "rayClusterName": "r1-y", "failed": 1}
    kube = Played(RUNNING, forgotten, log=line(DIVERGED))
    ended, _ = watch(kube)
    assert (ended.exit_code, ended.sentence) == (ExitCode.DIVERGED, f"run r1: {PROBLEM}.")
    assert kube.spec_patches[-1] == {"suspend": True}


def test_the_last_line_of_an_attempt_is_not_that_of_the_next():
    late = {"jobDeploymentStatus": "Failed", "jobStatus": "", "reason": "PreRunningDeadlineExceeded", "failed": 2}
    ended, _ = watch(Played(RUNNING, failed(DIED, "Retrying", 1), RUNNING, late, log=line(DIED)))
    assert "preRunningDeadlineSeconds" in ended.sentence


def test_a_passing_failure_is_followed_into_the_next_attempt():
    kube = Played(RUNNING, failed(DIED), failed(DIED, "Retrying", 1), RUNNING, COMPLETE)
    ended, shown = watch(kube)
    assert ended.exit_code == ExitCode.OK
    assert kube.spec_patches == []
    assert shown.messages.count("run r1: a node was lost. KubeRay is retrying the run.") == 1
    assert "Ray cluster  is being replaced" in shown.messages


def test_the_failure_of_the_last_attempt_is_the_runs():
    ended, _ = watch(Played(RUNNING, failed(DIED, "Running", 2)))
    assert ended.exit_code == ExitCode.TRAINING


def test_a_passive_watch_changes_no_retries():
    kube = Played(failed(DIVERGED, "Retrying", 1), COMPLETE)
    watch(kube, passive=True)
    assert kube.spec_patches == []


def test_a_user_who_may_not_patch_still_learns_the_truth():
    ended, shown = watch(Played(failed(DIVERGED), may_patch=False))
    assert ended.exit_code == ExitCode.DIVERGED
    assert any(said.startswith("warning: could not stop KubeRay from retrying: rights:") for said in shown.messages)


def test_a_lost_connection_during_a_patch_is_retried():
    kube = Played(COMPLETE, log=line(RESULT))
    patches = iter([LostConnectionError("cluster: no answer"), None])

    def patch_rayjob(name, changes):
        if error := next(patches):
            raise error

    kube.patch_rayjob = patch_rayjob
    ended, _ = watch(kube)
    assert ended.exit_code == ExitCode.OK
    assert kube.polls == 2


@pytest.mark.parametrize("last", [None, {**RUNNING, "deleted": True}, {**RUNNING, "uid": "2"}])
def test_a_rayjob_that_was_deleted_or_replaced_is_a_stopped_run(last):
    ended, _ = watch(Played(RUNNING, last))
    assert (ended.status, ended.exit_code) == ("stopped", ExitCode.INTERRUPTED)


def test_a_rayjob_that_was_deleted_after_its_success_has_finished(monkeypatch):
    monkeypatch.setattr(follow, "RESULT_COMES_S", 60.0)  # the result was still waited for
    ended, _ = watch(Played(COMPLETE, None))
    assert ended.exit_code == ExitCode.OK


def test_a_lost_connection_is_announced_once_and_waited_out():
    lost = LostConnectionError("cluster: no answer")
    ended, shown = watch(Played(RUNNING, lost, lost, lost, COMPLETE, log=line(RESULT)))
    assert ended.exit_code == ExitCode.OK
    assert shown.messages.count("cluster: no answer. The run continues; retrying the connection.") == 1
    assert sum(said.startswith("connected again after ") for said in shown.messages) == 1


def test_an_api_server_may_refuse_for_a_moment_but_not_for_a_minute(monkeypatch):
    refused = ClusterError("rights: you may not get rayjobs")
    lost = LostConnectionError("cluster: no answer")
    ended, shown = watch(Played(RUNNING, lost, refused, refused, COMPLETE, log=line(RESULT)))
    assert ended.exit_code == ExitCode.OK
    assert sum("you may not get rayjobs" in said for said in shown.messages) == 1
    monkeypatch.setitem(patience.WAITS, "refused", patience.Wait(-1.0, ""))
    with pytest.raises(ClusterError, match="may not get"):
        watch(Played(RUNNING, refused))


def test_a_connection_that_stays_lost_ends_the_follower(monkeypatch):
    monkeypatch.setitem(patience.WAITS, "lost", patience.Wait(-1.0, ""))
    with pytest.raises(LostConnectionError):
        watch(Played(LostConnectionError("cluster: no answer")))


def test_a_replaced_head_is_announced_once():
    kube = Played(RUNNING, RUNNING, RUNNING, COMPLETE, log=line(RESULT))
    submitters = kube.pod_list
    heads = iter(["a", "b", "b", "b"])
    kube.pods = lambda: [*submitters, pod(next(heads), "head", phase="Running")]
    _, shown = watch(kube)
    assert [said for said in shown.messages if "is gone" in said] == [
        "head a is gone; b replaces it, and the run resumes from storage"
    ]


def test_a_head_that_is_missing_for_a_moment_is_not_replaced():
    kube = Played(RUNNING, RUNNING, RUNNING, COMPLETE, log=line(RESULT))
    submitters = kube.pod_list
    heads = iter([["a"], [], ["a"], ["a"]])
    kube.pods = lambda: [*submitters, *(pod(name, "head", phase="Running") for name in next(heads))]
    _, shown = watch(kube)
    assert [said for said in shown.messages if "is gone" in said] == []


STUCK = {"name": "ray-head", "image": "nope", "state": {"waiting": {"reason": "InvalidImageName", "message": "x"}}}
STARTING = {"jobDeploymentStatus": "Initializing", "rayClusterName": "r1-x"}


def test_a_run_that_cannot_start_is_given_up_and_its_rayjob_stays(monkeypatch):
    monkeypatch.setattr(diagnose, "seconds", lambda _: 0.0)
    kube = Played(STARTING, pods=[pod("h", "head", phase="Pending", containerStatuses=[STUCK])])
    ended, shown = watch(kube)
    assert (ended.status, ended.exit_code) == ("pending", ExitCode.CLUSTER)
    assert ended.fix.startswith("correct image")
    assert any("nope cannot be pulled" in said for said in shown.messages)
    assert "trainer/result" not in kube.annotations
    assert kube.deleted == []


def test_a_run_that_has_trained_is_not_given_up(monkeypatch):
    monkeypatch.setattr(diagnose, "seconds", lambda _: 0.0)
    began = line({"event": "training_started", "time": 1.0})
    lost = [pod("h", "head", phase="Pending", containerStatuses=[STUCK])]
    ended, shown = watch(Played(RUNNING, RUNNING, RUNNING, COMPLETE, log=began + line(RESULT), pods=lost))
    assert ended.exit_code == ExitCode.OK
    assert any("nope cannot be pulled" in said for said in shown.messages)


def test_other_runs_pods_do_not_matter(monkeypatch):
    monkeypatch.setattr(diagnose, "seconds", lambda _: 0.0)
    stuck = pod("h", "head", cluster="r2-x", phase="Pending", containerStatuses=[STUCK])
    terminating = pod("t", "head", phase="Pending", containerStatuses=[STUCK])
    terminating["metadata"]["deletionTimestamp"] = "2026-11-24T15:00:00Z"
    ended, shown = watch(Played(STARTING, STARTING, COMPLETE, log=line(RESULT), pods=[stuck, terminating]))
    assert ended.exit_code == ExitCode.OK
    assert [said for said in shown.messages if "pulled" in said] == []


def test_points_and_events_reach_the_display_in_order():
    events = [{"event": "training_started", "time": 1.0}, {"event": "metrics", **POINT}, {"event": "metrics", **EPOCH}]
    kube = Played(RUNNING, COMPLETE, log="".join(map(line, events)) + line(RESULT))
    _, shown = watch(kube)
    assert shown.points == [POINT, EPOCH]
    assert [event["event"] for event in shown.events if event["event"] != "cluster"] == ["training_started"]
    assert kube.annotations["trainer/accuracy"] == "82.34%"


@pytest.mark.parametrize("odd", [{}, {"step": "1"}, {**POINT, "seconds": None}, {**POINT, "samples": True}])
def test_an_odd_point_is_not_shown(odd):
    ended, shown = watch(Played(RUNNING, COMPLETE, log=line({"event": "metrics", **odd}) + line(RESULT)))
    assert ended.exit_code == ExitCode.OK
    assert shown.points == []


class Broken(Shown):
    """A display that fails at everything."""

    def event(self, event):
        super().event(event)
        raise RuntimeError("no terminal")

    def point(self, point):
        raise RuntimeError("no terminal")


def test_a_display_that_fails_ends_itself_not_the_follower(capsys):
    broken = Broken()
    kube = Played(RUNNING, COMPLETE, log=line({"event": "metrics", **POINT}) + line(RESULT))
    ended = follow.Watch(kube, rayjob(), CONFIG, broken).until_end()
    assert ended.exit_code == ExitCode.OK
    assert len(broken.events) <= 1
    assert "The display failed (RuntimeError: no terminal); the run continues." in capsys.readouterr().err


@pytest.mark.parametrize("text", hostile.LINES.values(), ids=hostile.LINES)
def test_hostile_lines_reach_the_terminal_as_data(text, capsys):
    warning = {"event": "warning", "time": 1.0, "message": text}
    kube = Played(RUNNING, {**COMPLETE, "rayClusterName": text}, log=line(warning) + line(text) + line(RESULT))
    ended = follow.Watch(kube, rayjob(), CONFIG, PlainDisplay(CONFIG)).until_end()
    printed = capsys.readouterr().out
    assert ended.exit_code == ExitCode.OK
    assert [word for word in hostile.words(text) if word not in printed] == []
    assert [character for character in printed if character in hostile.FORBIDDEN] == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "waiting for the KubeRay operator"),
        ({"jobDeploymentStatus": "Initializing"}, "Ray cluster x is starting, 2 workers ready"),
        ({"jobDeploymentStatus": "Running"}, "submitted to Ray cluster x"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, "submitted to Ray cluster x"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "the driver runs on Ray cluster x"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "FAILED"}, None),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, "Ray cluster x is being replaced"),
        ({"jobDeploymentStatus": "Suspended"}, "suspended"),
        ({"jobDeploymentStatus": "Complete"}, None),
    ],
)
def test_the_state_of_a_rayjob_in_words(status, words):
    assert state_in_words(rayjob(rayClusterName="x", **status), 2) == words


def test_ready_workers_are_counted():
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"}
    not_ready = {"conditions": [{"type": "Ready", "status": "False"}], "phase": "Running"}
    scheduled = {"conditions": [{"type": "PodScheduled", "status": "True"}], "phase": "Pending"}
    workers = [pod("a", "worker", **ready), pod("b", "worker", **ready), pod("c", "worker", **not_ready)]
    pods = [*workers, pod("d", "worker", **scheduled), pod("h", "head", **ready)]
    _, shown = watch(Played(STARTING, COMPLETE, log=line(RESULT), pods=pods))
    assert shown.messages[0] == "Ray cluster r1-x is starting, 2 workers ready"


def test_who_joins_late_is_told_where_the_run_is_before_what_it_did():
    order = []

    class InOrder(Shown):
        def event(self, event):
            order.append(event["event"])

        def point(self, point):
            order.append("point")

    kube = Played(RUNNING, log=line({"event": "metrics", **EPOCH}))
    follow.Watch(kube, rayjob(**RUNNING), CONFIG, InOrder()).poll()
    assert order == ["cluster", "point"]
