"""Runs by their records in a storage: also those whose RayJob, or whose whole cluster, is gone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from trainer import resolve
from trainer.cluster.status import NONE, RunRow, RunStatus
from trainer.config import Config
from trainer.errors import OutageError, StorageError, sentence
from trainer.storage import layout, store
from trainer.storage.mirror import find_run

NOT_ENDED = "not ended"


def rows(storage: str) -> list[RunRow]:
    """Return the runs in a storage, by name; one whose record makes no sense is `damaged`.

    Raises:
        StorageError: the storage cannot be listed, or does not answer.
    """
    found = []
    for name in store.folders(storage):
        config = store.read(store.join(storage, name, layout.CONFIG))
        if config is not None:
            found.append(_row(storage, name, config))
    return found


def _row(storage: str, name: str, config: bytes) -> RunRow:
    try:
        epochs = _config(config).epochs
        result = _result(storage, name)
        accuracy = result.get("test_accuracy")
        ended = result.get("ended_at")
        return RunRow(
            run=name,
            state=_state(result),
            epoch=f"{int(result.get('epochs', 0))}/{epochs}",
            accuracy=NONE if accuracy is None else f"{accuracy:.2%}",
            ended=NONE if ended is None else utc(ended),
        )
    except OutageError:
        raise
    except Exception:  # noqa: BLE001 # whatever is wrong with one record, the others are listed
        return RunRow(name, "damaged")


def describe(storage: str, name: str) -> RunStatus:
    """Return how a run is by its record.

    Raises:
        StorageError: the run does not exist, or its record is damaged.
    """
    place = store.join(storage, name)
    config_text = store.read(store.join(place, layout.CONFIG))
    if config_text is None:
        raise StorageError(f"{storage} has no run {name}", "list its runs: trainer list --storage")
    try:
        config = _config(config_text)
        result = _result(storage, name)
        exit_code = result.get("exit_code")
        error = result.get("error")
        return RunStatus(
            run=name,
            state=_state(result),
            progress={
                "epoch": f"{int(result.get('epochs', 0))}/{config.epochs}",
                "step": f"{int(result.get('steps', 0))}/{config.total_steps}",
            }
            if result
            else {},
            submitted_at=utc(result["started_at"]) if "started_at" in result else None,
            record=place,
            exit_code=None if exit_code is None else int(exit_code),
            ended=sentence(str(error or f"Run {name} {_state(result)}")) if result else None,
            result=result or None,
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise StorageError(
            f"{place} is damaged ({type(error).__name__}: {error})",
            "run the same `trainer train` or `trainer submit` again: it rebuilds what it can",
        ) from None


def lines(storage: str, name: str) -> Iterator[str]:
    """Yield the events and points of a run's record as lines of JSON, oldest first, as its driver printed them.

    Raises:
        StorageError: the run does not exist, or its record is damaged.
    """
    record = find_run(name, storage)
    points = [{"event": "metrics", **point} for point in record.points()]
    for event in sorted([*record.events(), *points], key=_time):
        yield json.dumps(event)


def _time(event: dict[str, Any]) -> float:
    at = event.get("time")
    return float(at) if isinstance(at, int | float) else 0.0


def _config(text: bytes) -> Config:
    return resolve.load(None, base=text.decode())


def _result(storage: str, name: str) -> dict[str, Any]:
    """Return a run's result, empty if it has none yet."""
    content = store.read(store.join(storage, name, layout.RESULT))
    result = {} if content is None else json.loads(content)
    if not isinstance(result, dict):
        raise ValueError(f"{layout.RESULT} holds a {type(result).__name__} instead of an object")
    return result


def _state(result: dict[str, Any]) -> str:
    state = result.get("status", NOT_ENDED)
    if not isinstance(state, str):
        raise ValueError(f"{layout.RESULT} has no status")
    return state


def utc(seconds: float) -> str:
    """Return seconds since 1970 as Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
