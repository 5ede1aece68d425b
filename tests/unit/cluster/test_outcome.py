import json

import pytest

from trainer.cluster import outcome
from trainer.driver.ray_errors import described
from trainer.errors import ConflictError, ExitCode, OutageError, StorageError
from trainer.storage.lease import Lease
from trainer.storage.store_errors import sentences

RESULT = {"status": "finished", "exit_code": 0, "test_accuracy": 0.9, "test_loss": 0.3}
# as Ray writes it and KubeRay keeps it
FAILED = (
    "Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n"
    '{{"time": 1.0, "event": "run_started"}}\nError: {sentence}\n'
)


def job(annotations=None, deleted=False, spec=None, **status):
    meta = {"name": "r1", "annotations": annotations or {}}
    if deleted:
        meta["deletionTimestamp"] = "2026-11-24T15:00:00Z"
    return {
        "metadata": meta,
        "spec": {"backoffLimit": 2, "activeDeadlineSeconds": 60, **(spec or {})},
        "status": status,
    }


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"jobDeploymentStatus": "Initializing"},
        {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"},
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": "Suspended", "jobStatus": ""},
        {"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"},  # its result is still to come
    ],
)
def test_a_run_that_goes_on_has_not_ended(status):
    assert outcome.of(job(**status)) is None


def test_success_is_the_rayjobs_with_the_result_that_the_driver_printed():
    ended = outcome.of(job(jobStatus="SUCCEEDED", jobDeploymentStatus="Running"), RESULT)
    assert (ended.code, ended.status, ended.result) == (ExitCode.OK, "finished", RESULT)


def test_success_whose_log_is_gone_has_the_result_that_was_noted_or_none():
    over = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}
    assert outcome.of(job({"trainer/result": json.dumps(RESULT)}, **over)).result == RESULT
    assert outcome.of(job(**over)).result is None


@pytest.mark.parametrize("code", [ExitCode.CONFIG, ExitCode.STORAGE, ExitCode.CONFLICT, ExitCode.TRAINING])
def test_a_failure_has_the_drivers_exit_code_and_sentence(code):
    message = FAILED.format(code=int(code), sentence="loss: it is nan at step 3.")
    ended = outcome.of(job(jobStatus="FAILED", jobDeploymentStatus="Failed", reason="AppFailed", message=message))
    assert (ended.code, ended.status) == (code, "failed")
    assert ended.sentence == "run r1: loss: it is nan at step 3."
    assert ended.error().exit_code == code


def test_a_failure_counts_while_the_submitter_is_still_trying():
    message = FAILED.format(code=4, sentence="storage: no such bucket.")
    ended = outcome.of(job(jobStatus="FAILED", jobDeploymentStatus="Running", message=message))
    assert isinstance(ended.error(), StorageError)


@pytest.mark.parametrize(
    ("sentence", "may_pass"),
    [
        ("storage: s3://x cannot be written: there is no such bucket; make it first, or correct the name.", False),
        ("loss: nan at step 3.", False),
        ("storage: s3://x cannot be read: the store at y is unreachable (timeout); check it.", True),
        ("Training failed: its process or node is gone (ActorDiedError): killed, out of memory, or cut off.", True),
        ("process 7 on a trains s3://runs/r1; wait for it or stop it.", True),
    ],
)
def test_only_what_another_cluster_may_cure_may_pass(sentence, may_pass):
    message = FAILED.format(code=4, sentence=sentence)
    assert outcome.of(job(jobStatus="FAILED", jobDeploymentStatus="Retrying", message=message)).may_pass == may_pass


def test_a_driver_that_was_killed_is_a_failed_training():
    message = "Job entrypoint command failed with exit code -9, last available logs (truncated to 20,000 chars):\nx\n"
    ended = outcome.of(job(jobStatus="FAILED", jobDeploymentStatus="Failed", message=message))
    assert ended.code == ExitCode.TRAINING


def test_deadlines_name_the_value_that_ended_the_run():
    late = outcome.of(job(jobDeploymentStatus="Failed", reason="DeadlineExceeded"))
    assert late.code == ExitCode.INTERRUPTED
    assert "job.activeDeadlineSeconds, 60 s" in late.sentence
    spec = {"preRunningDeadlineSeconds": 900}
    never = outcome.of(job(jobDeploymentStatus="Failed", reason="PreRunningDeadlineExceeded", spec=spec))
    assert never.code == ExitCode.RESOURCES
    assert "900 s" in never.sentence


def test_whoever_stopped_a_run_is_named():
    by = outcome.of(job({"trainer/stopped-by": "ann@laptop"}, deleted=True, jobDeploymentStatus="Running"))
    assert by.code == ExitCode.INTERRUPTED
    assert "was stopped by ann@laptop" in by.sentence
    assert "somebody who deleted its RayJob" in outcome.of(job(deleted=True)).sentence
    assert outcome.of(job(jobStatus="STOPPED", jobDeploymentStatus="Complete")).code == ExitCode.INTERRUPTED


def test_a_run_whose_retries_were_called_off_keeps_its_failure():
    noted = {"status": "failed", "exit_code": 6, "error": "run r1: loss: nan."}
    ended = outcome.of(job({"trainer/result": json.dumps(noted)}, jobDeploymentStatus="Suspended"))
    assert (ended.code, ended.sentence) == (ExitCode.TRAINING, "run r1: loss: nan.")


def test_a_run_that_had_succeeded_did_so_even_if_its_rayjob_is_being_removed():
    ended = outcome.of(job(deleted=True, jobStatus="SUCCEEDED", jobDeploymentStatus="Complete"), RESULT)
    assert ended.code == ExitCode.OK


class ActorDiedError(Exception):
    """Has the name of Ray's."""


def test_what_may_pass_is_told_from_the_trainer_s_own_sentences(tmp_path):
    claimed = Lease(str(tmp_path), lost=lambda: None)
    with pytest.raises(ConflictError) as taken, claimed:
        Lease(str(tmp_path), lost=lambda: None)
    with pytest.raises(OutageError) as away, sentences("s3://runs", "read"):
        raise OSError("Connection refused")
    for sentence in (described(ActorDiedError("x")), str(taken.value), str(away.value)):
        message = FAILED.format(code=6, sentence=sentence)
        ended = outcome.of(job(jobStatus="FAILED", jobDeploymentStatus="Retrying", message=message))
        assert ended.may_pass, sentence
