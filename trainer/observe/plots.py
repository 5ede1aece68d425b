"""The pictures of a report: numbers of a record in, PNG bytes out. Nothing is read or written here.

Points are the lines of ``metrics.jsonl`` that count, each with ``elapsed``, seconds since its training began, and
``epochs_done``, a float, added.
A picture for which there is no finite number is left out.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ["MPLBACKEND"] = "agg"  # a user's may name one that this Matplotlib does not have, and its import fails
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # not pyplot: slower to import, and global state
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trainer.config import CLASSES, SIDE

RUN_PICTURES = ("loss", "accuracy", "learning_rate", "speed", "confusion", "classes", "mistakes", "time")
USAGE_PICTURES = ("cpu", "memory", "gpu", "network")
COMPARISON_PICTURES = ("accuracy_by_epoch", "accuracy_by_time", "train_loss")

# Okabe and Ito's palette: told apart with every kind of colour blindness, and in print
BLUE, VERMILION = "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
DASHES = ("-", "--", ":", "-.")  # once the colours are used up
PART_COLOURS = {  # of a run that was never resumed, and of one that was
    "start_up": "#9C9C9C",
    "start_up_pods": "#6E6E6E",
    "start_up_image": "#858585",
    "start_up_ray": "#9C9C9C",
    "start_up_imports": "#B3B3B3",
    "start_up_data": "#C6C6C6",
    "data": "#56B4E9",
    "training": BLUE,
    "productive": BLUE,
    "redone": VERMILION,
    "checkpoint_stall": "#009E73",
    "evaluation": "#E69F00",
    "recovery": "#CC79A7",
    "shutdown": "#CCCCCC",
    "other": "#EEEEEE",
    "report": "#CC79A7",
}
SMALLEST_PART = 0.002  # of the whole: a smaller one cannot be seen, and is in the table
INK, MUTED, FAINT = "#222222", "#666666", "#E3E3E3"
STYLE: dict[Any, Any] = {
    "figure.dpi": 180,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a folder may be named $x$
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.ymargin": 0.09,
    "grid.color": FAINT,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "ytick.major.size": 0,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#B0B0B0"),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
}
MOST_NAMED = 6  # nodes; more have no room in a legend
MARKED_POINTS = 30  # a curve of fewer points shows each of them
WIDE, HIGH = 4.8, 3.1  # inches of a curve: at a phone's width its text is still 10 pixels high

Pair = tuple[float, float]
Points = Sequence[Mapping[str, Any]]


def of_run(
    points: Points, evaluation: Mapping[str, Any] | None, seconds: Mapping[str, float] | None
) -> dict[str, bytes]:
    """The pictures of one run as PNG, by their names in ``RUN_PICTURES``.

    `evaluation` holds ``confusion`` [10, 10]: samples by label and prediction; ``class_accuracy`` 0..1 by class; and
    ``mistakes`` with ``pixels``, uint8 [28, 28]. `seconds` are the parts of the run's time, by name.
    """
    with matplotlib.rc_context(STYLE):
        pictures = {
            "loss": _loss(points),
            "accuracy": _accuracy(points),
            "learning_rate": _learning_rate(points),
            "speed": _speed(points),
            "time": _time(seconds) if seconds else None,
        }
        if evaluation:
            pictures["confusion"] = _confusion(evaluation["confusion"])
            pictures["classes"] = _classes(evaluation["class_accuracy"])
            pictures["mistakes"] = _mistakes(evaluation["mistakes"]) if evaluation["mistakes"] else None
    return {name: png for name, png in pictures.items() if png}


def of_usage(nodes: Mapping[str, Points], attempts: Sequence[float]) -> dict[str, bytes]:
    """How busy nodes were, as PNG by their names in ``USAGE_PICTURES``; what no node measured has no picture.

    `nodes` holds the lines of ``resources.jsonl`` by the node's label, each with ``elapsed``, seconds since the run
    began; `attempts` when each attempt after the first began, on the same clock.
    """
    with matplotlib.rc_context(STYLE):
        pictures = {
            "cpu": _usage(nodes, attempts, "cpu", 0.01, "CPU in use", "% of a node's cores"),
            "memory": _usage(nodes, attempts, "memory_bytes", 2**30, "Memory in use", "GiB"),
            "gpu": _usage(nodes, attempts, "gpu", 0.01, "GPU in use", "% of a node's GPUs"),
            "network": _usage(nodes, attempts, "sent_bytes_per_s", 1e6, "Network, sent", "MB/s"),
        }
    return {name: png for name, png in pictures.items() if png}


def of_runs(runs: Mapping[str, Points]) -> dict[str, bytes]:
    """The pictures that compare runs, by their names in ``COMPARISON_PICTURES``.

    `runs` holds each run's points by its label.
    """
    with matplotlib.rc_context(STYLE):
        pictures = {
            "accuracy_by_epoch": _overlaid(runs, "epoch", "test_accuracy", "Test accuracy by epoch"),
            "accuracy_by_time": _overlaid(runs, "elapsed", "test_accuracy", "Test accuracy by time"),
            "train_loss": _overlaid(runs, "epochs_done", "train_loss", "Train loss"),
        }
    return {name: png for name, png in pictures.items() if png}


def tile(pixels: np.ndarray) -> bytes:
    """One image, uint8 [28, 28], as a PNG of the same size; dark on white, as paper."""
    png = io.BytesIO()
    imsave(png, pixels, format="png", cmap="gray_r", vmin=0, vmax=255)
    return png.getvalue()


def look(index: int) -> tuple[str, str]:
    """Colour and dash of the run at this place of a comparison; no two of the first 28 are alike."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def series(points: Points, x: str, y: str) -> tuple[list[float], list[float]]:
    """Two columns of the points that have `y`; where it is not finite the curve has a gap."""
    there = [point for point in points if point.get(y) is not None]
    return [point[x] for point in there], [point[y] for point in there]


def _loss(points: Points) -> bytes | None:
    axes = _axes("Loss", "cross entropy, nats", "optimizer step")
    train = _curve(axes, *series(points, "step", "train_loss"), color=BLUE, label="train")
    test = _curve(axes, *series(points, "step", "test_loss"), color=VERMILION, marker="o", label="test, each epoch")
    if not train and not test:
        return None
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return _png(axes)


def _accuracy(points: Points) -> bytes | None:
    axes = _axes("Test accuracy", "%", "epoch")
    epochs, accuracy = series(points, "epoch", "test_accuracy")
    percent = [100 * value for value in accuracy]
    if not _curve(axes, epochs, percent, color=VERMILION, marker="o"):
        return None
    _whole_epochs(axes)
    if math.isfinite(percent[-1]):
        last = (epochs[-1], percent[-1])
        axes.annotate(f"{last[1]:.2f}%", last, (0, 7), textcoords="offset points", ha="right", weight="bold")
        axes.margins(y=0.16)
    return _png(axes)


def _learning_rate(points: Points) -> bytes | None:
    axes = _axes("Learning rate", "learning rate", "optimizer step")
    drawn = _curve(axes, *series(points, "step", "learning_rate"), color=BLUE)
    axes.set_ylim(bottom=0)
    return _png(axes) if drawn else None


def _speed(points: Points) -> bytes | None:
    longest = max((point["seconds"] for point in points), default=0.0)
    # what is left of an epoch after its last report can be a few milliseconds, whose speed is noise
    long_enough = [point for point in points if point["samples"] and point["seconds"] >= longest / 5]
    axes = _axes("Training speed", "samples/s")
    times, speeds = series(long_enough, "elapsed", "samples_per_second")
    unit = _time_axis(axes, times)
    if not _curve(axes, [at / unit for at in times], speeds, color=BLUE):
        return None
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return _png(axes)


def _usage(
    nodes: Mapping[str, Points], attempts: Sequence[float], key: str, unit: float, title: str, label: str
) -> bytes | None:
    measured = {name: series(lines, "elapsed", key) for name, lines in nodes.items()}
    measured = {name: pair for name, pair in measured.items() if pair[0]}
    if not measured:
        return None
    named = 1 < len(measured) <= MOST_NAMED
    below = 0.65 + 0.2 * len(measured) if named else 0.55  # the names of pods are long: they stand under the picture
    axes = _axes(title, label, "", (WIDE, 2.5 + below), (0.72, below))
    scale = _time_axis(axes, [at for times, _ in measured.values() for at in times], since="the run")
    for index, (name, (times, values)) in enumerate(measured.items()):
        colour, dash = look(index)
        _curve(axes, [at / scale for at in times], [v / unit for v in values], color=colour, linestyle=dash, label=name)
    for began in attempts:
        axes.axvline(began / scale, color=MUTED, linewidth=0.9, linestyle=":")
    axes.set(xlim=(0, None), ylim=(0, None))
    if named:
        axes.legend(loc="lower left", bbox_to_anchor=(0.15 / WIDE, 0.05), bbox_transform=axes.figure.transFigure)
    return _png(axes)


def _confusion(confusion: Sequence[Sequence[int]]) -> bytes:
    counts = np.asarray(confusion, dtype=float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(len(CLASSES), dtype=bool)
    axes = _axes("Confusion matrix", "label", "prediction", size=(6.2, 6.0), margins=(1.12, 1.12))
    axes.grid(visible=False)
    axes.imshow(np.where(right, share, np.nan), cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    # the root, so that a few mistakes are seen beside many
    axes.imshow(
        np.where(right | (counts == 0), np.nan, np.sqrt(share)), cmap="Oranges", vmin=0, vmax=0.8, aspect="auto"
    )
    for row, column in np.argwhere(counts > 0):
        colour = "white" if share[row, column] > (0.6 if row == column else 0.3) else INK
        axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, size=8.5)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _png(axes)


def _classes(accuracy: Mapping[str, float]) -> bytes:
    ordered = sorted(accuracy.items(), key=lambda item: item[1])
    percent = [100 * share for _, share in ordered]
    axes = _axes("Accuracy of each class", "", "% of the class predicted right", size=(4.8, 6.0), margins=(1.05, 0.62))
    axes.grid(visible=False)
    axes.barh(range(len(ordered)), percent, color=BLUE, height=0.68)
    for place, value in enumerate(percent):
        shift, side, colour = (-1.5, "right", "white") if value > 25 else (1.5, "left", INK)  # inside if it fits
        axes.text(value + shift, place, f"{value:.1f}", ha=side, va="center", color=colour)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    axes.set(xlim=(0, 100), ylim=(-0.5, len(ordered) - 0.5))
    axes.spines["left"].set_visible(False)
    return _png(axes)


def _mistakes(mistakes: Sequence[Mapping[str, Any]]) -> bytes:
    columns, gap, caption = 5, 6, 18  # pixels of the data set; one array is drawn in the time of one axes
    rows = -(-len(mistakes) // columns)
    high, wide = SIDE + caption, SIDE + gap
    canvas = np.zeros((rows * high, columns * wide - gap), np.uint8)
    axes = _axes("Worst mistakes", "", size=(5.6, 0.5 + rows * 1.48), margins=(0.1, 0.02))
    for place, mistake in enumerate(mistakes):
        top, left = place // columns * high, place % columns * wide
        canvas[top : top + SIDE, left : left + SIDE] = mistake["pixels"]
        at: dict[str, Any] = {"ha": "center", "va": "top", "size": 7.5}
        axes.text(left + SIDE / 2, top + SIDE + 0.5, mistake["label"], weight="bold", **at)
        said = f"→ {mistake['prediction']}\n{100 * mistake['confidence']:.1f}% sure"
        axes.text(left + SIDE / 2, top + SIDE + 4.6, said, color=MUTED, linespacing=1.3, **at)
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    return _png(axes)


def _time(seconds: Mapping[str, float]) -> bytes | None:
    parts = {part: max(0.0, seconds[part]) for part in PART_COLOURS if seconds.get(part)}  # clocks may disagree
    whole = sum(parts.values())
    if not whole:
        return None
    parts = {part: length for part, length in parts.items() if length >= SMALLEST_PART * whole}
    axes = _axes("Seconds by part", "", "", size=(9.6, 1.75), margins=(0.15, 0.55))
    axes.grid(visible=False)
    left = 0.0
    for part, length in parts.items():
        name = f"{part.replace('_', '-')} {length:.1f} s"
        axes.barh(0, length, left=left, color=PART_COLOURS[part], edgecolor="white", label=name)
        if length > 0.06 * whole:
            colour = "white" if PART_COLOURS[part] == BLUE else INK
            axes.text(left + length / 2, 0, f"{length / whole:.0%}", ha="center", va="center", color=colour)
        left += length
    axes.set(xlim=(0, left), yticks=[], xlabel="seconds")
    axes.spines["left"].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=min(len(parts), 5), handlelength=0.8, handletextpad=0.5)
    return _png(axes)


def _overlaid(runs: Mapping[str, Points], x: str, y: str, title: str) -> bytes | None:
    below = 0.65 + 0.2 * len(runs)  # the names stand under the picture: they can be long, and many
    axes = _axes(
        title, "%" if y == "test_accuracy" else "cross entropy, nats", "epoch", (WIDE, 2.5 + below), (0.72, below)
    )
    columns = {label: series(points, x, y) for label, points in runs.items()}
    unit = _time_axis(axes, *(xs for xs, _ in columns.values())) if x == "elapsed" else 1
    drawn, scale, marker = (False, 100, "o") if y == "test_accuracy" else (False, 1, None)
    for index, (label, (xs, ys)) in enumerate(columns.items()):
        line = dict(zip(("color", "linestyle"), look(index), strict=True), marker=marker, label=label.lstrip("_"))
        drawn |= _curve(axes, [at / unit for at in xs], [value * scale for value in ys], **line)
    if not drawn:
        return None
    if x == "epoch":
        _whole_epochs(axes)
    else:
        axes.set_xlim(left=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0.15 / WIDE, 0.05), bbox_transform=axes.figure.transFigure)
    return _png(axes)


def _axes(title: str, ylabel: str, xlabel: str = "", size: Pair = (WIDE, HIGH), margins: Pair = (0.72, 0.55)) -> Axes:
    """A figure with one pair of axes; `size` and the left and lower `margins` in inches."""
    (width, height), (left, below) = size, margins
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)  # which the figure keeps
    place = (left / width, below / height, 1 - (left + 0.15) / width, 1 - (below + 0.42) / height)
    axes = figure.add_axes(place, xlabel=xlabel, ylabel=ylabel)
    # flush with the picture, not with the axes; y is given because to find it takes as long as to draw
    axes.set_title(title, x=(0.15 - left) / (width - left - 0.15), y=1)
    return axes


def _curve(axes: Axes, xs: Sequence[float], ys: Sequence[float], **look: Any) -> bool:
    """Draw a line; says whether there was anything to draw."""
    if drawn := any(map(math.isfinite, ys)):
        look["marker"] = look.get("marker") or ("o" if len(xs) < MARKED_POINTS else None)
        look |= {"markeredgecolor": "white", "markeredgewidth": 0.6, "solid_joinstyle": "round"}
        axes.plot(xs, ys, clip_on=False, **look)  # a point on the edge is a whole point
    return drawn


def _whole_epochs(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, (low + high) / 2 - 0.5), max(high, (low + high) / 2 + 0.5))  # of one epoch only
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _time_axis(axes: Axes, *columns: Sequence[float], since: str = "training") -> int:
    """Label a time axis; returns the seconds in its unit, which suits the longest time of all columns."""
    longest = max(map(max, filter(None, columns)), default=0.0)
    unit, name = (3600, "hours") if longest > 3 * 3600 else (60, "minutes") if longest > 3 * 60 else (1, "seconds")
    axes.set_xlabel(f"{name} since {since} began")
    return unit


def _png(axes: Axes) -> bytes:
    png = io.BytesIO()
    figure: Any = axes.figure
    figure.savefig(png, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return png.getvalue()
