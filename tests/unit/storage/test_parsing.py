import pytest
from typing_extensions import TypedDict

from trainer.storage.parsing import check, from_json


class Line(TypedDict):
    step: int
    loss: float | None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "", b"\xff", "9" * 5000, "9" * 400])
def test_text_that_is_no_json_is_a_value_error_however_deep(text):
    with pytest.raises(ValueError):  # noqa: PT011 # each reader has words of its own
        from_json(text)


def test_a_line_with_its_fields_is_returned_as_it_is():
    line = {"step": 1, "loss": None, "more": "of a later version"}
    assert check(line, Line) is line


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"step": "1", "loss": 0.5}, "step"),
        ({"step": 1}, "loss"),
        ({"step": 1, "loss": "x" * 10_000}, "loss"),
        ([], ""),
    ],
)
def test_a_wrong_field_is_named_with_the_start_of_its_value(line, field):
    with pytest.raises(ValueError, match=f"^{field}") as caught:
        check(line, Line)
    assert len(str(caught.value)) < 300
