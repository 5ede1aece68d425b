"""JSON that somebody else may have written: what a bucket or a cluster holds is data, whatever it looks like."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
# What Python raises where data makes no sense, though each value is of the right type.
SENSELESS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
MOST_DIGITS = 300  # more would be beyond the range of floats
MOST_SHOWN = 100  # characters of a wrong value


def from_json(text: bytes | str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is not JSON, nested deeper than Python reads, or has a whole number that no float can be.
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("is nested too deep") from None


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"has a number of {len(digits)} digits")
    return int(digits)


def check(content: object, kind: type[T]) -> T:
    """Return `content` as it is, if it has the fields of a `TypedDict`, of the right types; others are let through.

    Raises:
        ValueError: it does not; names the field.
    """
    try:
        _adapter(cast("Any", kind)).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise ValueError(f"{where}: {first['msg']}, not {first['input']!r:.{MOST_SHOWN}}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    return content  # type: ignore[return-value] # as it was checked


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
