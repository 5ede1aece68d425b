"""Runs as their RayJobs show them."""

import json

import pytest
from support.fake_kube import COMPLETE, RESULT, RUNNING, FakeKube, line, rayjob, submitter
from support.points import EPOCH

from trainer import resolve
from trainer.cluster import status, waiting
from trainer.cluster.outcome import Outcome
from trainer.cluster.status import RunRow, RunStatus, describe, log_batches, numbers, poll, rows, state_of
from trainer.errors import ClusterError, ExitCode, LostConnectionError, NoSuchRunError

CONFIG = resolve.load("fast")
NOTES = {"trainer/config": json.dumps(CONFIG.model_dump()), "trainer/submitted-by": "ann@laptop"}
DIED = {"event": "result", "status": "failed", "exit_code": 6, "error": "died.", "problem": "died", "retry": True}
FAILING = {"jobStatus": "FAILED", "jobDeploymentStatus": "Running", "message": "failed with exit code 9"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(status, "POLL_EVERY_S", 0.0)
    monkeypatch.setattr(waiting, "CONFIRMED_AFTER_S", 0.0)


STATES = [
    ({}, "starting"),
    ({"jobDeploymentStatus": "Initializing"}, "starting"),
    ({"jobDeploymentStatus": "Suspended"}, "suspended"),
    ({"jobDeploymentStatus": "Running"}, "running"),
    (RUNNING, "running"),
    ({**COMPLETE, "jobDeploymentStatus": "Running"}, "finished"),  # for seconds, until its cluster is deleted
    (COMPLETE, "finished"),
    ({**FAILING, "failed": 0}, "retrying"),
    ({**FAILING, "failed": 2}, "failed"),
    ({"jobDeploymentStatus": "Retrying", "failed": 1}, "retrying"),
    ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, "failed"),
    ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, "stopped"),
    ({**RUNNING, "deleted": True}, "stopped"),
]


@pytest.mark.parametrize(("state", "word"), STATES)
def test_status_and_list_give_a_run_the_same_state(state, word):
    kube = FakeKube(rayjob(annotations=NOTES, **state), log=line(RESULT) if word == "finished" else "")
    assert state_of(kube.jobs["r1"]) == word
    assert [row.state for row in rows(kube)] == [word]
    assert poll(kube, "r1").state == word


def test_a_finished_run_has_its_result_before_its_rayjob_is_complete():
    kube = FakeKube(rayjob(annotations=NOTES, **{**COMPLETE, "jobDeploymentStatus": "Running"}), log=line(RESULT))
    found = poll(kube, "r1")
    assert (found.exit_code, found.result["test_accuracy"]) == (0, 0.9)
    assert found.ended == "Run r1 finished."
    assert found.now == []


def test_a_finished_run_has_ended_while_its_result_is_still_to_come():
    found = poll(FakeKube(rayjob(annotations=NOTES, **{**COMPLETE, "jobDeploymentStatus": "Running"})), "r1")
    assert (found.state, found.exit_code, found.ended) == ("finished", 0, "Run r1 finished.")


def test_a_running_run_has_its_progress_and_what_it_does():
    kube = FakeKube(rayjob(annotations=NOTES, **RUNNING), log=line({"event": "metrics", **EPOCH}))
    found = poll(kube, "r1")
    assert (found.progress["epoch"], found.progress["step"]) == (1, 1875)
    assert found.progress["test_accuracy"] == 0.8234
    assert found.progress["seconds_left"] is not None
    assert found.now == ["the driver runs on Ray cluster r1-x"]
    assert (found.submitted_by, found.ray_cluster, found.exit_code, found.ended) == ("ann@laptop", "r1-x", None, None)


def test_a_pending_run_has_its_problem_and_is_not_given_up():
    kube = FakeKube(rayjob(annotations=NOTES))
    kube.now += 1000
    found = poll(kube, "r1")
    assert (found.state, found.exit_code) == ("starting", None)
    assert found.now[-1].startswith("KubeRay: no operator has picked up RayJob r1")


def test_a_status_changes_no_retries():
    lasting = line({**DIED, "retry": False})
    kube = FakeKube(rayjob(annotations=NOTES, failed=0, **FAILING), log=lasting)
    poll(kube, "r1")
    assert [changes for changes in kube.patches if "spec" in changes] == []


def test_a_run_that_ended_is_not_polled_again():
    kube = FakeKube(rayjob(annotations={**NOTES, "trainer/result": json.dumps(RESULT)}, **COMPLETE))
    kube.pods = None
    assert poll(kube, "r1").result["test_accuracy"] == 0.9


def test_a_rayjob_of_kubectl_is_described_as_it_is():
    kube = FakeKube(rayjob(**RUNNING))
    kube.pods = None
    found = poll(kube, "r1")
    assert (found.state, found.submitted_by) == ("running", "kubectl")


def test_a_status_of_no_run_is_refused():
    with pytest.raises(NoSuchRunError):
        poll(FakeKube(), "r1")


def test_a_failure_is_described_with_code_sentence_and_result():
    ended = Outcome("failed", ExitCode.DATA, "p", "f")
    found = describe(rayjob(**RUNNING), ended, ["x"]).as_dict()
    assert (found["exit_code"], found["ended"], found["result"]["problem"]) == (3, "p; f.", "p")
    assert found["now"] == []


def test_json_has_every_key_with_numbers_as_numbers_and_null():
    empty = RunStatus("r1", "starting").as_dict()
    assert empty["epoch"] is empty["test_accuracy"] is empty["seconds_left"] is empty["ended"] is None
    found = RunStatus("r1", "running", {"epoch": 1, "test_accuracy": 0.5}, now=["x"], exit_code=0).as_dict()
    assert (found["epoch"], found["test_accuracy"], found["now"], found["exit_code"]) == (1, 0.5, ["x"], 0)
    assert found.keys() == empty.keys()


def test_the_record_is_in_the_storage_of_the_pods():
    head = {"template": {"spec": {"containers": [{"env": [{"name": "TRAINER_STORAGE", "value": "s3://runs"}]}]}}}
    job = rayjob(spec={"rayClusterSpec": {"headGroupSpec": head}})
    assert describe(job, None, []).record == "s3://runs/r1"
    assert describe(rayjob(), None, []).record is None


def with_progress(**numbers):
    return {**NOTES, "trainer/progress": json.dumps(numbers)}


def test_a_list_has_the_newest_run_first_and_numbers():
    notes = with_progress(epoch=1, epochs=2, test_accuracy=0.5, time=7.0)
    old = rayjob("old", annotations=notes, endTime="2026-11-24T15:01:00Z", **COMPLETE)
    new = rayjob("new")
    new["metadata"]["creationTimestamp"] = "2026-11-25T15:00:00Z"
    where = "training of kind"
    assert rows(FakeKube(old, new)) == [
        RunRow("new", "starting", started_at=1795618800.0, where=where),
        RunRow("old", "finished", 1, 2, 0.5, 1795532400.0, 1795532460.0, 7.0, where),
    ]


def test_a_list_says_of_a_running_run_what_its_status_says():
    stale = with_progress(epoch=1, epochs=3, time=1.0)
    kube = FakeKube(rayjob(annotations=stale, **RUNNING), log=line({"event": "metrics", **EPOCH, "epoch": 2}))
    (row,) = rows(kube)
    found = poll(kube, "r1")
    assert (row.epoch, row.test_accuracy) == (found.progress["epoch"], found.progress["test_accuracy"]) == (2, 0.8234)
    assert row.seen_at == EPOCH["time"]


def test_a_list_keeps_the_old_numbers_with_their_time_if_the_log_cannot_be_read():
    kube = FakeKube(rayjob(annotations=with_progress(epoch=1, epochs=3, time=1.0), **RUNNING))
    kube.pod_log = lambda *_: (_ for _ in ()).throw(ClusterError("rights: no"))
    (row,) = rows(kube)
    assert (row.state, row.epoch, row.seen_at) == ("running", 1, 1.0)


def test_a_list_has_the_result_of_a_run_that_nobody_followed():
    kube = FakeKube(rayjob(annotations=NOTES, **COMPLETE), log=line({"event": "metrics", **EPOCH}) + line(RESULT))
    (row,) = rows(kube)
    assert (row.state, row.epoch, row.test_accuracy) == ("finished", 1, 0.9)


@pytest.mark.parametrize("odd", ["", "[]", "{", '{"epoch": "x"}', '{"epoch": NaN}', '{"epoch": true}'])
def test_progress_that_makes_no_sense_is_not_known(odd):
    (row,) = rows(FakeKube(rayjob(annotations={"trainer/progress": odd})))
    assert (row.state, row.epoch) == ("starting", None)


ODD = [
    rayjob(annotations={"trainer/result": "["}, jobDeploymentStatus="Suspended"),
    rayjob(annotations={"trainer/result": '{"status": "failed", "exit_code": 1e99}'}, jobDeploymentStatus="Suspended"),
    rayjob(annotations={"trainer/config": "[]"}),
    rayjob(failed="many", jobDeploymentStatus="Running", jobStatus="FAILED"),
    rayjob(spec={"backoffLimit": "x"}, jobDeploymentStatus="Running", jobStatus="FAILED"),
    {**rayjob(), "status": "odd"},
    {**rayjob(), "status": None},
    {"metadata": {"name": "r1", "annotations": None}, "spec": {}, "status": {}},
    {"metadata": {"name": "r1"}},
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_rayjob_is_a_row_and_the_others_are_listed(odd):
    kube = FakeKube(odd, rayjob("r2", **RUNNING))
    assert {row.run: row.state for row in rows(kube)}["r2"] == "running"
    assert {row.run for row in rows(kube)} == {"r1", "r2"}


def test_a_rayjob_that_makes_no_sense_is_damaged():
    assert [row.state for row in rows(FakeKube({**rayjob(), "status": "odd"}))] == ["damaged"]


def test_a_log_has_all_submitters_lines_in_order():
    kube = FakeKube(rayjob(**RUNNING), pods=[submitter(name="b"), submitter(name="a"), submitter("r2", "c")])
    kube.pod_list[0]["metadata"]["creationTimestamp"] = "2026-11-25T15:00:00Z"
    kube.logs = {"a": "1 x\n2 y\n", "b": "3 z\n", "c": "not mine\n"}
    assert list(log_batches(kube, "r1", follow=False)) == [["1 x", "2 y", "3 z"]]


def test_a_followed_log_ends_with_the_run_and_repeats_no_line():
    kube = FakeKube(rayjob(**RUNNING), log="1 x\n")
    states = iter([RUNNING, RUNNING, COMPLETE])
    found = kube.rayjob("r1")
    kube.rayjob = lambda name: {**found, "status": next(states)} if kube.polled() else found
    count = iter(range(10))
    kube.polled = lambda: next(count) > 0
    lines = log_batches(kube, "r1", follow=True)
    assert next(lines) == ["1 x"]
    kube.logs["r1-abc"] = "1 x\n2 y\n"
    assert [line for batch in lines for line in batch] == ["2 y"]


@pytest.mark.parametrize("then", [None, rayjob(uid="2", **RUNNING)])
def test_a_followed_log_ends_when_the_rayjob_is_gone_or_replaced(then):
    kube = FakeKube(rayjob(**RUNNING), log="1 x\n")
    lines = log_batches(kube, "r1", follow=True)
    assert next(lines) == ["1 x"]
    kube.jobs = {"r1": then} if then else {}
    assert [line for batch in lines for line in batch] == []


def test_a_followed_log_waits_out_a_lost_connection():
    kube = FakeKube(rayjob(**COMPLETE), log="1 x\n")
    answers = [LostConnectionError("cluster: no answer"), kube.pods()]

    def pods():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kube.pods = pods
    assert list(log_batches(kube, "r1", follow=True)) == [["1 x"]]
    answers[:] = [LostConnectionError("cluster: no answer")]
    with pytest.raises(LostConnectionError):
        list(log_batches(kube, "r1", follow=False))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "its numbers are in the record"),
        ({}, "its numbers are in the record"),
        ({"test_accuracy": None}, "its numbers are in the record"),
        ({"test_accuracy": "high", "test_loss": 0.3}, "its numbers are in the record"),
        ({"test_accuracy": 0.9}, "its numbers are in the record"),
        ({"test_accuracy": 0.9, "test_loss": 0.3}, "test accuracy 90.00%, test loss 0.3000"),
        (
            {"test_accuracy": 0.9, "test_loss": 0.3, "seconds": {"wall": 12.34}},
            "test accuracy 90.00%, test loss 0.3000, 12.3 s in total",
        ),
        ({"test_accuracy": 0.9, "test_loss": 0.3, "seconds": 5}, "test accuracy 90.00%, test loss 0.3000"),
    ],
)
def test_numbers_that_make_no_sense_are_not_shown(result, words):
    assert numbers(result) == words
