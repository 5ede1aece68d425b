"""Runs by their records in a storage: also those whose RayJob, or whose whole cluster, is gone."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from trainer import resolve
from trainer.cluster.driver_log import as_point
from trainer.cluster.status import (
    DAMAGED,
    FAILED,
    FINISHED,
    PROGRESS,
    RUNNING,
    STOPPED,
    RunRow,
    RunStatus,
)
from trainer.config import Config
from trainer.errors import ConfigError, NoSuchRunError, OutageError, StorageError, UnusableNameError, one_line, sentence
from trainer.observe.progress import Numbers, Progress
from trainer.observe.summary import wall_seconds
from trainer.storage import layout, lease, store
from trainer.storage.mirror import find_run
from trainer.storage.parsing import SENSELESS, from_json

READS_AT_ONCE = 16  # of a store: each run takes two requests
LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999
STATES = {"finished": FINISHED, "failed": FAILED, "interrupted": STOPPED}  # by the status of a result


def rows(storage: str) -> list[RunRow]:
    """Return the runs in a storage, newest first; one whose record makes no sense is `damaged`.

    Raises:
        StorageError: the storage cannot be listed, does not answer, or is not a folder.
    """
    if not store.is_remote(storage) and not Path(storage).is_dir():
        problem = "is not a folder" if Path(storage).exists() else "does not exist"
        raise StorageError(f"storage: {storage} {problem}", "give the folder or bucket that holds the runs")
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = [row for row in pool.map(partial(_row, storage), store.folders(storage)) if row is not None]
    return sorted(found, key=lambda row: row.started_at or 0.0, reverse=True)


def _row(storage: str, name: str) -> RunRow | None:
    """Return a run as a row; None if the folder is none of a run."""
    place = store.join(storage, name)
    try:
        config = store.read(store.part(place, layout.CONFIG))
        if config is None:
            return None
        result = _result(storage, name)
        progress = _progress(place, _config(config), result)
        return RunRow(
            run=name,
            state=_state(place, result),
            epoch=progress["epoch"],
            epochs=progress["epochs"],
            test_accuracy=progress["test_accuracy"],
            started_at=_moment(result.get("started_at")) if result else _began(place),
            ended_at=_moment(result.get("ended_at")),
            seen_at=progress["time"],
            where=storage,
            record=place,
            test_loss=_number(result.get("test_loss")),
            wall_s=wall_seconds(result),
            goodput=_number((result.get("goodput") or {}).get("goodput")),
            cost=_number((result.get("cost") or {}).get("total")),
            currency=(result.get("cost") or {}).get("currency"),
            workers=result.get("workers"),
            attempts=result.get("attempt"),
        )
    except UnusableNameError as error:
        store.pass_over(str(error))
        return RunRow(name, DAMAGED, where=storage, record=place)
    except Exception as error:  # whatever is wrong with one record, the others are listed
        if isinstance(error, OutageError) or (isinstance(error, StorageError) and store.is_remote(storage)):
            raise
        return RunRow(name, DAMAGED, where=storage, record=place)


def describe(storage: str, name: str) -> RunStatus:
    """Return how a run is by its record.

    Raises:
        StorageError: the run does not exist, or its record is damaged.
    """
    place = store.join(storage, name)
    config_text = store.read(store.part(place, layout.CONFIG))
    if config_text is None:
        raise NoSuchRunError(
            f"{storage} has no run {name}", f"list its runs: trainer list --storage {shlex.quote(storage)}"
        )
    try:
        config = _config(config_text)
        result = _result(storage, name)
        exit_code = result.get("exit_code")
        error = result.get("error")
        state = _state(place, result)
        began = _moment(result.get("started_at")) if result else _began(place)
        progress = _progress(place, config, result)
        return RunStatus(
            run=name,
            state=state,
            progress={key: value for key, value in progress.items() if key in PROGRESS},  # type: ignore[misc]
            submitted_at=None if began is None else utc(began),
            record=place,
            exit_code=None if exit_code is None else int(exit_code),
            ended=sentence(str(error or f"Run {name} {state}")) if result else None,
            result=result or None,
        )
    except (ConfigError, *SENSELESS) as error:
        raise StorageError(
            f"{place} is damaged ({one_line(error)})",
            "run the same `trainer train` or `trainer submit` again: it rebuilds what it can",
        ) from None


def _progress(place: str, config: Config, result: dict[str, Any]) -> Numbers:
    """Return how far a run is: by its result, or by its points until it has one."""
    if result:
        accuracy, epoch, step = result.get("test_accuracy"), result.get("epochs", 0), result.get("steps", 0)
        if accuracy is not None:
            accuracy = float(accuracy)
        return {
            **_nothing(config),
            "epoch": int(epoch),
            "step": int(step),
            "test_accuracy": accuracy,
            "time": _moment(result.get("ended_at")) or 0.0,
        }
    progress = Progress(config)
    for event in _lines(place, layout.METRICS):
        point = as_point(event)
        if point is not None:
            progress.add(point)
    return progress.numbers() or _nothing(config)


def _nothing(config: Config) -> Numbers:
    return {
        "epoch": 0,
        "epochs": config.epochs,
        "step": 0,
        "steps": config.total_steps,
        "train_loss": None,
        "test_accuracy": None,
        "samples_per_second": None,
        "seconds_left": None,
        "time": 0.0,
    }


def _began(place: str) -> float | None:
    """Return when the last process of a run began."""
    starts = [
        event.get("process_created") for event in _lines(place, layout.EVENTS) if event.get("event") == "run_started"
    ]
    return _moment(starts[-1]) if starts else None


def _lines(place: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of a record, one a line; what is none, as a line being written, is left out."""
    for line in (store.read(store.part(place, name)) or b"").splitlines():
        with suppress(ValueError):
            content = from_json(line)
            if isinstance(content, dict):
                yield content


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _moment(value: object) -> float | None:
    """Return a time in seconds since 1970, checked: it is formatted as a date later."""
    if value is None:
        return None
    if isinstance(value, int | float) and 0 <= value <= LAST_MOMENT:
        return float(value)
    raise ValueError(f"{value!r} is not a time")


def lines(storage: str, name: str) -> Iterator[str]:
    """Yield the events, points and result of a run's record as lines of JSON, in order, as its driver printed them.

    Raises:
        StorageError: the run does not exist, or its record is damaged.
    """
    record = find_run(name, storage)
    points = [{"event": "metrics", **point} for point in record.points()]
    for event in sorted([*record.events(), *points], key=_time):
        yield json.dumps(event)
    if result := record.result():
        yield json.dumps({"event": "result", **result})


def _time(event: dict[str, Any]) -> float:
    with suppress(TypeError, ValueError, OverflowError):
        return float(event.get("time", 0.0))
    return 0.0


def _config(text: bytes) -> Config:
    return resolve.load(None, base=text.decode())


def _result(storage: str, name: str) -> dict[str, Any]:
    """Return a run's result, empty if it has none yet."""
    content = store.read(store.part(store.join(storage, name), layout.RESULT))
    result = {} if content is None else from_json(content)
    if not isinstance(result, dict):
        raise ValueError(f"{layout.RESULT} holds a {type(result).__name__} instead of an object")
    return result


def _state(place: str, result: dict[str, Any]) -> str:
    if not result:
        return RUNNING if lease.is_held(place) else STOPPED
    state = result.get("status")
    if not isinstance(state, str):
        raise ValueError(f"{layout.RESULT} has no status")
    return STATES.get(state, state)


def utc(seconds: float) -> str:
    """Return seconds since 1970 as Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
