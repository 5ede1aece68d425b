import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from trainer.driver.ray_errors import causes, described, is_death, ran_out_of_memory, root_causes, why_it_ended
from trainer.errors import DivergedError, TrainingError

DEATH = ActorDiedError()
OOM = OutOfMemoryError("3 workers were killed due to the node running low on memory.\nEviction stats: ...")
GLOO = RuntimeError("[/__w/pytorch/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.1]:53372")


class FailureError(Exception):
    """As Ray Train raises it: the errors of the workers, or of the controller."""

    def __init__(self, workers=(), controller=None):
        self.worker_failures = dict(workers)
        self.controller_failure = controller


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError(), "KeyError"),
        (ValueError("first\nlast"), "ValueError: last"),
        (ValueError("Traceback ...\nValueError: last"), "ValueError: last"),
        (TrainingError("The loss became nan"), "The loss became nan"),
        (DEATH, "its process or node was lost (ActorDiedError): killed, out of memory, or unreachable"),
        (
            WorkerHealthCheckTimeoutError("45 s"),
            "it stopped responding (WorkerHealthCheckTimeoutError): its process or node is frozen or unreachable",
        ),
        (
            OOM,
            (
                "Ray killed its process (OutOfMemoryError) because its node ran low on memory: raise memory, or use "
                "more workers"
            ),
        ),
    ],
)
def test_an_error_is_described_in_one_line(error, line):
    assert described(error) == line


def test_deaths_are_told_from_errors():
    health = WorkerHealthCheckFailedError("x", failure=RuntimeError("gone"))
    assert [is_death(error) for error in (DEATH, health, GLOO, ValueError())] == [True, True, False, False]
    assert [ran_out_of_memory(error) for error in (OOM, DEATH, MemoryError("low on memory"))] == [True, False, False]


def test_a_lost_worker_is_the_cause_of_the_others_errors():
    assert root_causes({0: GLOO, 1: DEATH, 2: GLOO}) == {1: DEATH}
    assert root_causes({0: GLOO, 1: ValueError()}).keys() == {0, 1}
    own = DivergedError("the loss became nan")
    assert root_causes({0: DEATH, 1: own}) == {1: own}


def test_rays_wrapper_around_an_error_is_removed():
    wrapped = RuntimeError("a page of text")
    wrapped._base_exc = own = DivergedError("the loss became nan")
    assert causes({2: wrapped, 1: DEATH}) == {1: DEATH, 2: own}


def test_a_run_ends_with_the_workers_own_error_if_it_has_one():
    own = DivergedError("the loss became nan")
    assert why_it_ended(FailureError({0: DEATH, 1: own})) is own


@pytest.mark.parametrize(
    ("failure", "words", "retry"),
    [
        (FailureError({0: GLOO, 1: DEATH}), "was lost (ActorDiedError)", True),
        (FailureError({0: ValueError("the dog ate it")}), "ValueError: the dog ate it", False),
        (FailureError({0: OOM}), "ran low on memory", False),
        (FailureError(controller=ValueError("no controller")), "ValueError: no controller", False),
    ],
)
def test_a_run_ends_with_the_first_cause(failure, words, retry):
    error = why_it_ended(failure)
    assert words in error.problem
    assert "pair.cc" not in error.problem
    assert error.retry is retry
