import pickle

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import WorkerGroupError

from trainer.driver.recovery import DIED_IN_VAIN, RAISED_IN_VAIN, Recovery
from trainer.errors import DivergedError, TrainingError
from trainer.storage import checkpoints, skipped_steps
from trainer.storage.checkpoints import Checkpoint

DEATH = WorkerHealthCheckFailedError("the actor died", failure=RuntimeError("gone"))


@pytest.fixture
def decide(tmp_path):
    """What is decided when a run's workers fail with an error."""
    recovery = Recovery(str(tmp_path))
    return lambda error: recovery.make_decision(WorkerGroupError("failed", {0: error}))


@pytest.mark.parametrize(("error", "tries"), [(ValueError("a bug"), RAISED_IN_VAIN), (DEATH, DIED_IN_VAIN)])
def test_a_failure_is_tried_again_some_times_and_no_more_if_the_run_gets_no_further(decide, error, tries):
    assert [decide(error) for _ in range(tries)] == [FailureDecision.RETRY] * tries
    assert decide(error) is FailureDecision.RAISE


def test_a_run_that_gets_further_is_never_given_up(decide, tmp_path):
    for step in range(1, 3 * RAISED_IN_VAIN):
        checkpoints.commit(str(tmp_path), Checkpoint(step, 1), {"model": b"x"}, {})
        assert decide(ValueError("bad luck")) is FailureDecision.RETRY


def test_what_the_trainer_has_a_sentence_for_ends_the_run_at_once(decide):
    assert decide(TrainingError("The loss became nan.")) is FailureDecision.RAISE


def test_the_death_of_one_worker_counts_as_that_though_the_others_raise_because_of_it(tmp_path):
    recovery = Recovery(str(tmp_path))
    failure = WorkerGroupError("failed", {0: RuntimeError("connection closed by peer"), 1: DEATH})
    decisions = [recovery.make_decision(failure) for _ in range(RAISED_IN_VAIN + 1)]
    assert decisions == [FailureDecision.RETRY] * (RAISED_IN_VAIN + 1)


def test_a_loss_that_is_no_number_is_gone_back_from_once(decide, tmp_path):
    error = DivergedError("The loss became nan.")
    error.step = 9
    assert decide(error) is FailureDecision.RAISE  # there is nothing to go back to
    checkpoints.commit(str(tmp_path), Checkpoint(5, 1), {"model": b"x"}, {})
    assert decide(pickle.loads(pickle.dumps(error))) is FailureDecision.RETRY  # as it comes from the worker
    assert skipped_steps.left_out(str(tmp_path)) == range(5, 9)
    error.step = 20
    assert decide(error) is FailureDecision.RAISE
