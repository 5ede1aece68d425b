"""A run as one HTML page and PNG pictures, and several runs side by side; from their records alone.

The pages are self-contained: they can be mailed, opened offline, and made again with ``trainer report``.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import jinja2
import numpy as np
from typing_extensions import TypedDict

from trainer import resolve
from trainer.config import CLASSES, SIDE, Config, flatten
from trainer.errors import StorageError, one_line
from trainer.observe import goodput, plots, text
from trainer.observe.goodput import without_redone
from trainer.observe.summary import class_accuracy, parts_of, wall_seconds
from trainer.storage import layout, store
from trainer.storage.folder import Folder
from trainer.storage.parsing import SENSELESS
from trainer.storage.record import Record
from trainer.storage.schema import Environment, Evaluation, Node, Point, Result, Usage

PARTS = {
    "start_up": "from the start of the first process to the first step",
    "data": "finding, checking and decoding the data set",
    "training": "forward, backward, optimizer, and the reports",
    "report": "page and plots",
}
T = TypeVar("T")
LONGEST_NAMES = 120  # characters in the name of a folder
EVENTS_SHOWN = 200  # the newest ones
# Details of events that are seconds since 1970.
POINTS_IN_TIME = (
    "process_created",
    "processes_began_at",
    "entered_at",
    "started_at",
    "finished_at",
    "ended_at",
    "submitted_at",
)


class CountedPoint(Point):
    """A point that counts, with its place in the run."""

    elapsed: float  # seconds since training started
    epochs_done: float


class Evaluated(TypedDict):
    """`schema.Evaluation` as the page shows it."""

    confusion: list[list[int]]
    mistakes: list[dict[str, Any]]  # as `schema.Mistake`, its pixels decoded: uint8 [28, 28]
    class_accuracy: dict[str, float] | None


@dataclass(frozen=True)
class RunReport:
    """A record, checked, as the page shows it; `points` are those that count.

    `began` is when the last process of the run began, `seen` its last sign of life; seconds since 1970, or None.
    """

    name: str
    config: Config
    environment: Environment
    points: list[CountedPoint]
    attempts: int
    events: list[Any]  # schema.Event
    evaluation: Evaluated | None
    result: Result | None
    nodes: list[Node]
    usage: list[Usage]
    began: float | None
    seen: float | None

    @property
    def status(self) -> str:
        """``finished``, ``failed``, ``stopped``, or ``unfinished`` as long as there is no result."""
        status = str(self.result["status"]) if self.result else "unfinished"
        return "stopped" if status == "interrupted" else status  # the word of `trainer list`

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The points that end an epoch, each with the epoch's mean train loss and speed, and its evaluation."""
        ends = [point for point in self.points if "test_accuracy" in point]
        return [{**point, **mean([p for p in self.points if p["epoch"] == point["epoch"]])} for point in ends]

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The numbers at the head of the page; None where one is not known."""
        last: dict[str, Any] = self.epochs[-1] if self.epochs else {}
        result: Mapping[str, Any] = self.result or {}
        first = next((event["process_created"] for event in self.events if event["event"] == "run_started"), None)
        so_far = self.seen - first if self.seen and first else None
        return {
            "test_accuracy": last.get("test_accuracy"),
            "test_loss": last.get("test_loss"),
            "epochs": last.get("epoch", 0),
            "workers": self.points[-1].get("workers") if self.points else None,
            "wall": so_far if wall_seconds(result) is None else wall_seconds(result),
            "training": parts_of(result).get("productive", parts_of(result).get("training")),
            "samples_per_second": mean(self.points)["samples_per_second"],
        }


def write(record: Record, folder: Path | None = None) -> Path:
    """Make a run's ``report.html`` and ``plots/*.png``, whatever state it is in: in its record, or in `folder`.

    Raises:
        StorageError: there is no such run, its record is damaged, or its folder cannot be written.
    """
    run = read(record)
    with _readable([record]):
        pictures = plots.of_run(run.points, run.evaluation, parts_of(run.result or {})) | _usage_pictures(run)
        page = _render("run.html", pictures, run=run, **_pieces(run, record))
    folder = folder or record.folder
    with _unwritable(folder):
        _save(folder, layout.PLOTS, pictures, (*plots.RUN_PICTURES, *plots.USAGE_PICTURES))
        _replace(folder, layout.REPORT, page)
    return folder / layout.REPORT


def write_comparison(records: list[Record], folder: Path) -> Path:
    """Make ``comparison.html`` and its pictures in `folder`: runs side by side.

    Raises:
        StorageError: a record is damaged, or the folder cannot be written.
    """
    runs = dict(zip(_labels(records), map(read, records), strict=True))
    with _readable(records):
        pictures = plots.of_runs({label: run.points for label, run in runs.items()})
        page = _render(
            "comparison.html",
            pictures,
            runs=runs,
            colours={label: plots.look(index)[0] for index, label in enumerate(runs)},
            best=max((run.numbers["test_accuracy"] or 0.0 for run in runs.values()), default=0.0),
            differences=differing_settings([run.config for run in runs.values()]),
            links={label: _link(record, folder) for label, record in zip(runs, records, strict=True)},
            command=_command(records, folder),
        )
    with _unwritable(folder):
        _save(folder, ".", pictures, plots.COMPARISON_PICTURES)
        _replace(folder, "comparison.html", page)
    return folder / "comparison.html"


def comparison_name(records: list[Record]) -> str:
    """Return the name of the folder for a comparison of runs: no run can have it, and no other comparison has it."""
    names = "_".join(record.name for record in records)
    if len(names) > LONGEST_NAMES:
        names = f"{len(records)}_runs_{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    return f"comparison_{names}"


def read(record: Record) -> RunReport:
    """All that a report shows of a record.

    Raises:
        StorageError: the run does not exist, or its record is damaged.
    """
    config = record.config()
    try:
        # the page made again must be the same page, so it cannot show that it was written
        events = [_cut(event) for event in record.events() if event["event"] != "report_written"]
        points = record.points()
        record.check_lines()
        nodes, usage = _cut(record.nodes()), _cut(record.usage())
        starts = [event for event in events if event["event"] == "run_started"]
        attempts = [event["attempt"] for event in events if event["event"] == "training_started"]
        return RunReport(
            record.name,
            config,
            environment=_cut(record.environment()),
            points=_counting(points, events, config),
            attempts=len({*attempts, *(point["attempt"] for point in points)}),
            events=events,
            evaluation=_evaluation(record.evaluation()),
            result=_cut(record.result()),
            nodes=nodes,
            usage=usage,
            began=starts[-1]["process_created"] if starts else None,
            seen=max((float(each["time"]) for each in [*events, *points]), default=None),
        )
    except SENSELESS as error:
        raise _damaged([record], error) from error


def _cut(content: T) -> T:
    """Content of a record without the part of a text that nobody would read."""
    cut: Any = content
    if isinstance(content, dict):
        cut = {key: _cut(value) for key, value in content.items()}
    elif isinstance(content, list):
        cut = [_cut(value) for value in content]
    elif isinstance(content, str):
        cut = text.cut(content)
    return cut  # type: ignore[no-any-return] # of the same type


def mean(points: Sequence[Point]) -> dict[str, float | None]:
    """Return train loss and samples/s of several points together, weighted by their samples and seconds."""
    samples = 0
    loss = 0.0
    seconds = 0.0
    for point in points:
        if point["samples"] and point["train_loss"] is not None:
            samples += point["samples"]
            loss += point["train_loss"] * point["samples"]
            seconds += point["seconds"]
    return {
        "train_loss": loss / samples if samples else None,
        "samples_per_second": samples / seconds if seconds else None,
    }


def differing_settings(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """The settings that are not the same in all configs: one value for each config."""
    flat = [flatten(config.model_dump()) for config in configs]
    return {key: [each[key] for each in flat] for key in flat[0] if any(each[key] != flat[0][key] for each in flat)}


def _counting(points: list[Point], events: list[Any], config: Config) -> list[CountedPoint]:
    counting = without_redone(points, events)
    if not counting:
        return []
    began = counting[0]["time"] - counting[0]["seconds"]
    for event in events:
        if event["event"] == "training_started" and event["attempt"] == counting[0]["attempt"]:
            began = event["started_at"]
    epoch = config.steps_per_epoch
    return [{**point, "elapsed": point["time"] - began, "epochs_done": point["step"] / epoch} for point in counting]


def _evaluation(evaluation: Evaluation | None) -> Evaluated | None:
    if evaluation is None:
        return None
    if np.shape(evaluation["confusion"]) != (len(CLASSES), len(CLASSES)):
        raise ValueError(f"the confusion matrix is not {len(CLASSES)} × {len(CLASSES)}")
    mistakes = [{**mistake, "pixels": _pixels(mistake["pixels"])} for mistake in evaluation["mistakes"]]
    return {
        "confusion": evaluation["confusion"],
        "mistakes": mistakes,
        "class_accuracy": class_accuracy(evaluation),
    }


def _pixels(encoded: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(encoded, validate=True), np.uint8).reshape(SIDE, SIDE)


def _command(records: list[Record], folder: Path | None = None) -> str:
    """Return the command that makes a page again, from wherever it is called."""
    storages = {store.parent(record.place) for record in records}
    together = len(storages) == 1
    words = [record.name if together else record.place for record in records]
    words += ["--storage", storages.pop()] if together else []
    words += ["--output", str(folder)] if folder else []
    return shlex.join(["trainer", "report", *words])


def _link(record: Record, folder: Path) -> str | None:
    """Return a link from a page in `folder` to a run's own page, if a browser can follow it."""
    if record.remote or not record.file(layout.REPORT).exists():
        return None
    return quote(os.path.relpath(record.file(layout.REPORT), folder.absolute()))


def _pieces(run: RunReport, record: Record) -> dict[str, Any]:
    starts = [event["process_created"] for event in run.events if event["event"] == "run_started"]
    shown = run.events[-EVENTS_SHOWN:]
    mistakes = run.evaluation["mistakes"] if run.evaluation else []
    recipe = resolve.closest_recipe(run.config)
    return {
        "tiles": [_data_uri(plots.tile(mistake["pixels"])) for mistake in mistakes],
        "events": [_event(event, starts[0] if starts else run.events[0]["time"]) for event in shown],
        "hidden_events": len(run.events) - len(shown),
        "training": next((each for each in reversed(run.events) if each["event"] == "training_started"), None),
        "settings": flatten(run.config.model_dump()),
        "recipe": recipe,
        "of_recipe": flatten(resolve.load(recipe).model_dump()),
        "parts": parts_of(run.result or {}),
        "part_texts": PARTS | goodput.PARTS,
        "command": _command([record]),
        "machines": _machines(run),
    }


def _usage_pictures(run: RunReport) -> dict[str, bytes]:
    began = goodput.began_at(run.events)
    if began is None:
        return {}
    pods = {node["node"]: node["pod"] for node in run.nodes}
    ours = re.compile(rf"{re.escape(run.name)}-[a-z0-9]{{5}}-")  # of each cluster of the run: it tells no pods apart
    by_node: dict[str, list[dict[str, Any]]] = {}
    for usage in run.usage:
        label = ours.sub("", pods.get(usage["node"], usage["node"]))
        by_node.setdefault(label, []).append({**usage, "elapsed": usage["time"] - began})
    again = [event["started_at"] - began for event in run.events if event["event"] == "training_started"][1:]
    return plots.of_usage(by_node, again)


def _machines(run: RunReport) -> list[dict[str, Any]]:
    """The nodes of a run on a cluster, with what their pods say of themselves, and when they came and went."""
    began = goodput.began_at(run.events) or 0.0
    facts = {pod["pod"]: pod for pod in goodput.pods_in(run.events)}
    gone = {line["node"]: line for line in run.nodes if not line["alive"]}
    shown = []
    for node in (line for line in run.nodes if line["alive"]):
        pod = facts.get(node["pod"], {})
        end = gone.get(node["node"])
        shown.append(
            {
                **pod,
                **node,
                "node_name": pod.get("node", ""),
                "came": node["time"] - began,
                "went": end["time"] - began if end else None,
                "reason": end.get("reason", "") if end else "",
            }
        )
    return shown


def _event(event: dict[str, Any], began: float) -> dict[str, Any]:
    """An event with its times relative to the run's start, in seconds."""
    times = {key: f"{event[key] - began:+.1f} s" for key in POINTS_IN_TIME if key in event}
    details = {key: value for key, value in (event | times).items() if key not in ("time", "event")}
    return {"at": event["time"] - began, "event": event["event"], "details": details}


def _labels(records: list[Record]) -> list[str]:
    """The runs' names, with a number where a name comes again."""
    names = [record.name for record in records]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _render(template: str, pictures: Mapping[str, bytes], **names: Any) -> bytes:
    embedded = dict.fromkeys((*plots.RUN_PICTURES, *plots.USAGE_PICTURES, *plots.COMPARISON_PICTURES))
    embedded |= {name: _data_uri(png) for name, png in pictures.items()}
    return templates().get_template(template).render(pictures=embedded, **names).encode(errors="backslashreplace")


@cache
def templates() -> jinja2.Environment:
    """Return the pages' templates, with the filters that they use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "seconds": seconds, "day": day, "setting": setting}
    return environment


def number(value: float | None, form: str) -> str:
    """A number in a format; – where there is none, and in words where it is not finite."""
    if value is None:
        return "–"
    return format(value, form) if math.isfinite(value) else "not a number" if math.isnan(value) else "infinite"


def seconds(value: float | None) -> str:
    """A time for people: 6.23 s, 38.6 s, 6:26, 1:02:33."""
    if value is None or not math.isfinite(value):
        return number(value, "")
    if value < 99.95:
        return f"{value:.2f} s" if abs(value) < 9.995 else f"{value:.1f} s"
    hours, rest = divmod(round(value), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def day(value: float) -> str:
    """Seconds since 1970 as date and time."""
    when = datetime.fromtimestamp(value, timezone.utc)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def setting(value: Any) -> str:
    """A setting or detail, as short as it can be read."""
    if isinstance(value, (list, tuple)):
        nested = (f"[{setting(each)}]" if isinstance(each, (list, tuple)) else setting(each) for each in value)
        return ", ".join(nested) or "none"
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "none"


def _save(folder: Path, below: str, pictures: Mapping[str, bytes], known: Sequence[str]) -> None:
    Path(store.part(str(folder), below)).mkdir(parents=True, exist_ok=True)
    for name in known:
        file = f"{below}/{name}.png"
        if name in pictures:
            _replace(folder, file, pictures[name])
        else:
            Path(store.part(str(folder), file)).unlink(missing_ok=True)  # of a report on an earlier attempt


def _replace(folder: Path, name: str, content: bytes) -> None:
    Folder().write(store.part(str(folder), name), content)


@contextmanager
def _readable(records: Sequence[Record]) -> Iterator[None]:
    """Let numbers that make no sense, as 1e308 seconds, be damage of the record that has them."""
    try:
        yield
    except (*SENSELESS, jinja2.TemplateError) as error:
        raise _damaged(records, error) from error


def _damaged(records: Sequence[Record], error: Exception) -> StorageError:
    places = ", ".join(record.place for record in records)
    return StorageError(f"{places}: the record is damaged ({one_line(error)})", "report other runs without it")


@contextmanager
def _unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"report: {folder} cannot be written ({error.strerror})", "free space, or give another folder with --output"
        ) from None
