"""The types of a record are what `docs/record.md` says and what the code writes."""

import pytest
from pydantic import TypeAdapter, ValidationError
from support.points import EPOCH, POINT

from tools import record_page
from trainer.storage import schema


def test_points_have_the_type_of_a_point():
    adapter = TypeAdapter(schema.Point)
    assert adapter.validate_python(POINT) == POINT
    assert adapter.validate_python(EPOCH) == EPOCH
    with pytest.raises(ValidationError, match="step"):
        adapter.validate_python({key: POINT[key] for key in POINT if key != "step"})


def test_every_event_has_its_own_name():
    names = [record_page._name_of(event) for event in schema.EVENTS]
    assert len(set(names)) == len(names) == 15
    assert "worker_failed" in names


@pytest.mark.parametrize(
    "kind",
    [schema.Point, schema.Result, schema.Evaluation, schema.Environment, schema.CheckpointManifest, *schema.EVENTS],
)
def test_the_page_has_every_field_of_every_type(kind):
    page = "\n".join(record_page.page())
    assert [name for name in kind.__annotations__ if f"`{name}`" not in page] == []
