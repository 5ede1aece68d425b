"""How a run ended, told from RayJobs as KubeRay writes them."""

import json

import pytest
from support.fake_kube import RESULT, RUNNING, rayjob

from trainer.cluster import outcome
from trainer.cluster.outcome import Outcome
from trainer.cluster.retries import RETRY_BY_EXIT_CODE
from trainer.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    ConflictError,
    DataError,
    DivergedError,
    ExitCode,
    InterruptedRunError,
    OutageError,
    ResourceError,
    StorageError,
    TrainerError,
    TrainingError,
)

SUCCEEDED = {key: value for key, value in RESULT.items() if key != "event"}
FACTS = {
    "status": "failed",
    "exit_code": 4,
    "error": "storage: s3://x is away; wait.",
    "problem": "storage: s3://x is away",
    "fix": "wait",
    "retry": True,
}
# as Ray writes it and KubeRay keeps it
MESSAGE = (
    "Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n"
    '{{"time": 1.0, "event": "run_started"}}\n{last}\n'
)


def failed(code, last, state="Failed", **more):
    message = MESSAGE.format(code=int(code), last=last)
    return rayjob(jobStatus="FAILED", jobDeploymentStatus=state, reason="AppFailed", message=message, **more)


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"jobDeploymentStatus": "Initializing"},
        {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"},
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": "Suspended", "jobStatus": ""},
    ],
)
def test_running_rayjob_has_no_outcome(status):
    assert outcome.of_attempt(rayjob(**status)) is None
    assert outcome.of_run(rayjob(**status)) is None


@pytest.mark.parametrize("state", ["Running", "Complete"])
def test_success_has_the_result_that_the_driver_printed(state):
    ended = outcome.of_attempt(rayjob(jobStatus="SUCCEEDED", jobDeploymentStatus=state), SUCCEEDED)
    assert (ended.exit_code, ended.status, ended.result) == (ExitCode.OK, "finished", SUCCEEDED)
    assert ended.retry is False


def test_success_without_a_log_has_the_written_result_or_none():
    over = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}
    assert outcome.of_run(rayjob(annotations={"trainer/result": json.dumps(SUCCEEDED)}, **over)).result == SUCCEEDED
    assert outcome.of_run(rayjob(**over)).result is None


def test_the_printed_result_comes_before_the_written_one():
    job = rayjob(annotations={"trainer/result": json.dumps({**SUCCEEDED, "test_accuracy": 0.1})}, jobStatus="SUCCEEDED")
    assert outcome.of_attempt(job, SUCCEEDED).result["test_accuracy"] == 0.9


@pytest.mark.parametrize("retry", [True, False])
def test_the_drivers_last_line_gives_problem_fix_and_retry(retry):
    ended = outcome.of_driver(rayjob(**RUNNING), {**FACTS, "retry": retry})
    assert ended == Outcome("failed", ExitCode.STORAGE, "run r1: storage: s3://x is away", "wait", retry)
    assert ended.sentence == "run r1: storage: s3://x is away; wait."


@pytest.mark.parametrize("result", [None, SUCCEEDED, {**FACTS, "status": "interrupted"}])
def test_a_driver_that_did_not_fail_has_no_failure(result):
    assert outcome.of_driver(rayjob(**RUNNING), result) is None


@pytest.mark.parametrize("exit_code", ExitCode)
def test_an_old_drivers_result_is_retried_by_exit_code(exit_code):
    result = {"status": "failed", "exit_code": int(exit_code), "error": "loss: nan."}
    ended = outcome.of_driver(rayjob(), result)
    known = ExitCode.INTERNAL if exit_code is ExitCode.OK else exit_code
    assert (ended.exit_code, ended.problem) == (known, "run r1: loss: nan.")
    assert ended.retry == RETRY_BY_EXIT_CODE[known]
    assert ended.sentence == "run r1: loss: nan."


def test_what_can_only_fail_again_is_not_retried_by_exit_code():
    assert set(RETRY_BY_EXIT_CODE) == set(ExitCode)
    assert {code for code, retry in RETRY_BY_EXIT_CODE.items() if retry} == {
        ExitCode.INTERNAL,
        ExitCode.STORAGE,
        ExitCode.TRAINING,
        ExitCode.INTERRUPTED,
    }


ERRORS = [
    (ConfigError("p", "f"), False),
    (DataError("p", "f"), False),
    (CheckpointError("p", "f"), False),
    (DivergedError("p", "f"), False),
    (ConflictError("p", "f"), False),
    (ConflictError("p", "f", retry=True), True),
    (StorageError("p", "f"), False),
    (OutageError("p", "f"), True),
    (TrainingError("p", "f"), False),
    (TrainingError("p", "f", retry=True), True),
]


@pytest.mark.parametrize(("error", "retry"), ERRORS)
def test_retry_is_what_the_driver_says(error, retry):
    ended = outcome.of_driver(rayjob(), {"status": "failed", **error.facts()})
    assert (ended.problem, ended.fix, ended.retry) == ("run r1: p", "f", retry)


def test_the_drivers_last_line_is_read_from_kuberays_message():
    last = json.dumps({"event": "result", **FACTS}) + f"\nError: {FACTS['error']}"
    ended = outcome.of_attempt(failed(4, last, "Retrying"))
    assert (ended.problem, ended.fix, ended.retry) == ("run r1: storage: s3://x is away", "wait", True)


@pytest.mark.parametrize("code", [ExitCode.CONFIG, ExitCode.STORAGE, ExitCode.CONFLICT, ExitCode.TRAINING])
def test_a_failure_without_last_line_has_exit_code_and_error_line(code):
    ended = outcome.of_attempt(failed(code, "Error: loss: it is nan\nat step 3."))
    assert (ended.exit_code, ended.status) == (code, "failed")
    assert ended.sentence == "run r1: loss: it is nan at step 3."
    assert ended.retry == RETRY_BY_EXIT_CODE[code]


def test_a_failure_without_error_line_has_the_last_line():
    assert outcome.of_attempt(failed(1, "Segmentation fault")).problem == "run r1: Segmentation fault"


def test_the_error_line_may_be_in_the_log_instead():
    job = rayjob(jobStatus="FAILED", jobDeploymentStatus="Failed", reason="AppFailed")
    assert outcome.of_attempt(job, None, "x\nError: no data.").problem == "run r1: no data."
    assert outcome.of_attempt(job).problem == "run r1: AppFailed"


def test_an_unknown_reason_may_be_retried():
    ended = outcome.of_attempt(rayjob(jobDeploymentStatus="Failed"))
    assert (ended.exit_code, ended.retry) == (ExitCode.INTERNAL, True)
    assert ended.sentence == "run r1: it failed for an unknown reason."


@pytest.mark.parametrize("code", [-9, 137, 255])
def test_a_killed_driver_failed_in_training_and_may_be_retried(code):
    ended = outcome.of_attempt(failed(code, "x"))
    assert (ended.exit_code, ended.retry) == (ExitCode.TRAINING, True)


def test_an_evicted_driver_may_be_retried():
    last = json.dumps(
        {"event": "result", "status": "interrupted", "exit_code": 130, "error": "Stopped.", "retry": False}
    )
    ended = outcome.of_attempt(failed(130, f"{last}\nError: Stopped.", "Retrying"))
    assert (ended.status, ended.exit_code, ended.retry) == ("failed", ExitCode.INTERRUPTED, True)


def test_a_missed_deadline_names_the_setting():
    spec = {"activeDeadlineSeconds": 60}
    late = outcome.of_run(rayjob(jobDeploymentStatus="Failed", reason="DeadlineExceeded", spec=spec))
    assert (late.status, late.exit_code) == ("stopped", ExitCode.INTERRUPTED)
    assert "longer than job.activeDeadlineSeconds, 60 s" in late.problem
    spec = {"preRunningDeadlineSeconds": 900}
    never = outcome.of_run(rayjob(jobDeploymentStatus="Failed", reason="PreRunningDeadlineExceeded", spec=spec))
    assert (never.status, never.exit_code, never.retry) == ("failed", ExitCode.RESOURCES, True)
    assert "900 s" in never.problem


def test_a_stopped_run_names_who_stopped_it():
    stopped = outcome.of_run(rayjob(annotations={"trainer/stopped-by": "ann@laptop"}, deleted=True, **RUNNING))
    assert (stopped.status, stopped.exit_code) == ("stopped", ExitCode.INTERRUPTED)
    assert "was stopped by ann@laptop" in stopped.sentence
    assert "somebody who deleted its RayJob" in outcome.of_run(rayjob(deleted=True)).sentence
    by_ray = outcome.of_run(rayjob(jobStatus="STOPPED", jobDeploymentStatus="Complete"))
    assert (by_ray.status, by_ray.exit_code) == ("stopped", ExitCode.INTERRUPTED)


@pytest.mark.parametrize("state", ["Suspending", "Suspended"])
def test_a_run_whose_retries_were_stopped_keeps_its_failure(state):
    written = Outcome("failed", ExitCode.DIVERGED, "run r1: loss: nan", "lower optimizer.lr").as_result()
    ended = outcome.of_run(rayjob(annotations={"trainer/result": json.dumps(written)}, jobDeploymentStatus=state))
    assert (ended.exit_code, ended.sentence) == (ExitCode.DIVERGED, "run r1: loss: nan; lower optimizer.lr.")


def test_a_suspended_run_that_has_not_failed_has_not_ended():
    job = rayjob(annotations={"trainer/result": json.dumps(SUCCEEDED)}, jobDeploymentStatus="Suspended")
    assert outcome.of_run(job) is None


@pytest.mark.parametrize(("suspend", "ended"), [(True, True), (False, False)])
def test_a_rayjob_that_stands_for_a_stopped_run_is_one_that_stays_suspended(suspend, ended):
    job = rayjob(annotations={"trainer/stopped-by": "ann@laptop"}, jobDeploymentStatus="Suspended")
    job["spec"]["suspend"] = suspend
    found = outcome.of_run(job)
    assert (found is not None and found.status == "stopped") is ended


def test_a_finished_run_stays_finished_while_its_rayjob_is_deleted():
    ended = outcome.of_run(rayjob(deleted=True, jobStatus="SUCCEEDED", jobDeploymentStatus="Complete"))
    assert ended.exit_code == ExitCode.OK


@pytest.mark.parametrize(
    ("state", "count", "retries"),
    [("Retrying", 2, True), ("Running", 1, True), ("Running", 2, False), ("Running", 3, False), ("Failed", 0, False)],
)
def test_a_failed_attempt_is_not_the_runs_end_while_kuberay_retries(state, count, retries):
    job = failed(1, "x", state)
    job["status"]["failed"] = count
    assert outcome.will_retry(job) is retries
    assert (outcome.of_run(job) is None) is retries
    job["metadata"]["deletionTimestamp"] = "2026-11-24T15:00:00Z"
    assert outcome.will_retry(job) is False


def test_a_running_attempt_is_no_retry():
    assert outcome.will_retry(rayjob(**RUNNING)) is False


@pytest.mark.parametrize("exit_code", [code for code in ExitCode if code is not ExitCode.OK])
def test_an_outcome_becomes_an_error_with_its_facts(exit_code):
    error = Outcome("failed", exit_code, "p", "f", retry=True).error()
    assert (error.exit_code, error.problem, error.fix, error.retry) == (exit_code, "p", "f", True)


def test_an_outcomes_error_has_the_class_of_its_exit_code():
    kinds = [ConfigError, StorageError, DivergedError, ClusterError, InterruptedRunError, ResourceError]
    for kind in kinds:
        assert type(Outcome("failed", kind.exit_code, "p").error()) is kind
    assert type(Outcome("failed", ExitCode.INTERNAL, "p").error()) is TrainerError


def test_what_is_written_down_is_the_result_or_stands_in_for_it():
    assert Outcome("finished", ExitCode.OK, "p", result=SUCCEEDED).as_result() == SUCCEEDED
    assert Outcome("finished", ExitCode.OK, "p").as_result() == {"status": "finished", "exit_code": 0}
    assert Outcome("failed", ExitCode.DATA, "p", "f").as_result() == {
        "status": "failed",
        "exit_code": 3,
        "error": "p; f.",
        "problem": "p",
        "fix": "f",
        "retry": False,
    }


ODD = ["", "{", "[]", "3", "null", '"x"', "{}", '{"status": 3, "exit_code": 0}', '{"status": "failed"}', "[" * 100_000]
ODD += ['{"status": "failed", "exit_code": true}', '{"status": "failed", "exit_code": "6"}']


@pytest.mark.parametrize("text", ODD)
def test_an_odd_result_is_none(text):
    assert outcome.parsed_result(text) is None
    assert outcome.of_run(rayjob(annotations={"trainer/result": text}, jobDeploymentStatus="Suspended")) is None


def test_a_result_of_a_failure_without_words_names_the_exit_code():
    ended = outcome.of_driver(rayjob(), {"status": "failed", "exit_code": 6, "retry": "yes"})
    assert (ended.problem, ended.fix, ended.retry) == ("run r1: it failed with exit code 6", "", True)


def test_a_long_last_line_is_shortened():
    assert len(outcome.of_attempt(failed(1, "x" * 1000)).problem) == len("run r1: ") + 300
