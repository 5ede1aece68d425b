import pickle

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from trainer.driver.recovery import MAX_DEATHS_WITHOUT_PROGRESS, MAX_ERRORS_WITHOUT_PROGRESS, Recovery
from trainer.errors import DivergedError, StorageError, TrainingError
from trainer.storage import checkpoints, skipped_steps
from trainer.storage.checkpoints import Checkpoint

DEATH = WorkerHealthCheckFailedError("the actor died", failure=RuntimeError("gone"))
BUG = ValueError("a bug")


@pytest.fixture
def run(tmp_path):
    return str(tmp_path)


@pytest.fixture
def retries(run):
    """Whether the workers of a run are restarted after one of them failed with an error."""
    recovery = Recovery(run)
    return lambda error, preempted=False: recovery.retries({0: error}, preempted)


def save(run, step):
    checkpoints.commit(run, Checkpoint(step, 1), dict.fromkeys(checkpoints.FILES, b"x"), {})


@pytest.mark.parametrize(("error", "most"), [(BUG, MAX_ERRORS_WITHOUT_PROGRESS), (DEATH, MAX_DEATHS_WITHOUT_PROGRESS)])
def test_failures_without_progress_are_retried_a_fixed_number_of_times(retries, error, most):
    assert [retries(error) for _ in range(most + 1)] == [True] * most + [False]


def test_a_run_that_makes_progress_is_never_given_up(retries, run):
    for step in range(1, 3 * MAX_ERRORS_WITHOUT_PROGRESS):
        save(run, step)
        assert retries(BUG)


@pytest.mark.parametrize("error", [BUG, DEATH])
def test_progress_forgets_earlier_failures(retries, run, error):
    while retries(error):
        pass
    save(run, 1)
    assert retries(error)


def test_preempted_workers_are_always_restarted(retries):
    assert all(retries(DEATH, preempted=True) for _ in range(2 * MAX_DEATHS_WITHOUT_PROGRESS))


def test_a_failure_without_worker_errors_is_retried(run):
    assert Recovery(run).retries({}, preempted=False)


def test_an_error_of_the_trainer_ends_the_run_at_once(retries):
    assert not retries(TrainingError("the loss became nan"))
    assert not retries(TrainingError("the loss became nan"), preempted=True)


def test_a_death_counts_as_one_though_other_ranks_raise(run):
    recovery = Recovery(run)
    errors = {0: RuntimeError("connection closed by peer"), 1: DEATH}
    assert all(recovery.retries(errors, preempted=False) for _ in range(MAX_ERRORS_WITHOUT_PROGRESS + 1))


def test_an_outage_while_looking_for_progress_is_retried(retries, monkeypatch):
    monkeypatch.setattr(checkpoints, "list_checkpoints", lambda run: (_ for _ in ()).throw(StorageError("away")))
    assert all(retries(BUG) for _ in range(MAX_ERRORS_WITHOUT_PROGRESS + 2))


def test_a_non_finite_loss_is_rolled_back_once(retries, run):
    error = DivergedError("the loss became nan")
    error.step = 9
    assert not retries(error)  # there is no checkpoint to roll back to
    save(run, 5)
    assert retries(pickle.loads(pickle.dumps(error)))  # as it arrives from the worker
    assert skipped_steps.read(run) == range(5, 9)
    error.step = 20
    assert not retries(error)


def test_a_rollback_that_cannot_be_written_ends_the_run(retries, run, monkeypatch):
    save(run, 5)
    monkeypatch.setattr(skipped_steps, "write", lambda run, step: (_ for _ in ()).throw(StorageError("away")))
    assert not retries(DivergedError("the loss became nan"))
