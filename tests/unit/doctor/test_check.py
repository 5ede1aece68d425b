import pytest

from trainer.doctor.check import Check, State, failed, good, worst
from trainer.errors import ExitCode, StorageError

BAD = Check("here", "storage", State.BAD, "is away", "wait", ExitCode.STORAGE)
WARNING = Check("here", "data", State.WARNING, "not there", "nothing to do")


def test_a_check_survives_json():
    assert Check.from_dict(BAD.as_dict()) == BAD
    assert BAD.as_dict()["state"] == "wrong"
    assert BAD.as_dict()["code"] == 4


@pytest.mark.parametrize("odd", [{}, {**BAD.as_dict(), "state": "fine"}, {**BAD.as_dict(), "code": 99}])
def test_what_is_no_check_is_a_value_error(odd):
    with pytest.raises(ValueError, match=r"."):
        Check.from_dict(odd)


def test_more_keys_than_a_checks_are_left_out():
    assert Check.from_dict({"event": "check", "time": 1.0, **BAD.as_dict()}) == BAD


def test_a_failed_check_has_the_errors_facts():
    check = failed("here", "storage", StorageError("a; b: c", "d; e"))
    assert check == Check("here", "storage", State.BAD, "a; b: c", "d; e", ExitCode.STORAGE)


def test_the_exit_code_is_that_of_the_first_wrong_check():
    other = Check("here", "data", State.BAD, "damaged", "download it again", ExitCode.DATA)
    assert worst([]) == ExitCode.OK
    assert worst([good("here", "CPU", "2 cores"), WARNING]) == ExitCode.OK
    assert worst([WARNING, BAD, other]) == ExitCode.STORAGE
