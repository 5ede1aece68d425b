"""Errors carry facts, which survive the way from worker to driver."""

import pickle

import pytest
from ray import cloudpickle

from trainer import errors
from trainer.errors import DivergedError, ExitCode, OutageError, StorageError, TrainerError, one_line


def test_sentence_is_made_of_problem_and_fix():
    assert str(StorageError("storage: /x is full", "free space")) == "storage: /x is full; free space."
    assert str(StorageError("Nothing is there.")) == "Nothing is there."


def test_facts_are_the_parts_of_the_error():
    error = OutageError("storage: s3://b is unreachable", "check the network")
    assert error.facts() == {
        "exit_code": 4,
        "error": "storage: s3://b is unreachable; check the network.",
        "problem": "storage: s3://b is unreachable",
        "fix": "check the network",
        "retry": True,
    }


def test_retry_and_exit_code_can_be_given_for_one_error():
    error = TrainerError("it broke", retry=True, exit_code=ExitCode.DATA)
    assert (error.retry, error.exit_code) == (True, ExitCode.DATA)
    assert (TrainerError.retry, TrainerError.exit_code) == (False, ExitCode.INTERNAL)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_facts_survive_pickling(dumps):
    error = DivergedError("The loss became nan", "lower optimizer.lr", retry=True)
    error.step = 40
    copy = pickle.loads(dumps(error))
    assert copy.facts() == error.facts()
    assert (type(copy), copy.step) == (DivergedError, 40)


def test_only_outages_can_pass_by_default():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TrainerError)]
    assert {kind.__name__ for kind in kinds if kind.retry} == {"OutageError", "LostConnectionError"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("the dog ate the batch"), "ValueError: the dog ate the batch"),
        (ValueError("Traceback ...\n  File x\nValueError: it broke"), "ValueError: it broke"),
        (ValueError(), "ValueError"),
        (StorageError("a", "b"), "a; b"),
    ],
)
def test_one_line_has_the_type_once_and_the_last_words(error, line):
    assert one_line(error) == line
