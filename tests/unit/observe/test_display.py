import io
import json
import re

import pytest
from rich.console import Console
from support.hostile import FORBIDDEN, LINES, words
from support.points import EPOCH, POINT

from trainer import resolve
from trainer.observe import display

CONFIG = resolve.load("seed")
STARTED = {
    "event": "training_started",
    "workers": 2,
    "threads": 1,
    "device": "cpu",
    "attempt": 2,
    "step": 30,
    "precision": "fp32",
    "precision_reason": "no units",
}


def test_a_plain_line_has_the_numbers_of_an_epoch(capsys):
    display.PlainDisplay(CONFIG).point(EPOCH)
    line = capsys.readouterr().out
    assert re.match(r"\d\d:\d\d:\d\d  epoch 1/10  step 1875/18750  loss 1.2346  test loss 0.5000", line)
    assert "ETA 1:30" in line  # 9 more epochs of 10 s


def test_plain_lines_inside_an_epoch_are_rare(capsys, monkeypatch):
    plain = display.PlainDisplay(CONFIG)
    plain.point(POINT)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(display, "PLAIN_LINE_EVERY_S", 0.0)
    plain.point(POINT)
    assert "step 1875" in capsys.readouterr().out


def test_json_lines_carry_every_event_and_point(capsys):
    lines = display.JsonDisplay()
    lines.event({"event": "run_started", "pid": 1})
    lines.point(POINT)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"event": "run_started", "pid": 1}
    assert second == {"event": "metrics", **POINT}


def live(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out = io.StringIO()
    monkeypatch.setattr(display, "console", lambda: Console(file=out, markup=False, emoji=False, highlight=False))
    return display.LiveDisplay(CONFIG), out


def test_a_live_table_shows_the_run_and_is_removed_at_the_end(monkeypatch):
    shown, out = live(monkeypatch)
    shown.point(EPOCH)
    shown.close()
    assert "test accuracy 82.34%" in out.getvalue()
    assert shown._live.is_started is False


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160])
def test_a_live_line_is_one_line_in_any_width(width, monkeypatch):
    out = io.StringIO()
    terminal = Console(file=out, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "console", lambda: terminal)
    shown = display.LiveDisplay(CONFIG)
    shown.point({**POINT, "epoch": 9, "step": 18_000, "workers": 12, "samples_per_second": 123_456.7})
    table = shown._table()
    shown.close()
    with terminal.capture() as printed:
        terminal.print(table)
    (line,) = printed.get().splitlines()
    assert len(line) <= width
    assert "epoch 9/10" in line
    assert ("ETA" in line) == (width >= 40)
    assert ("123k/s" in line) == (width >= 80)


def test_a_live_display_leaves_nothing_behind(monkeypatch):
    # what remains on a terminal of 60 columns: nothing, where each line that was written is erased
    out = io.StringIO()
    terminal = Console(file=out, width=60, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "console", lambda: terminal)
    shown = display.LiveDisplay(CONFIG)
    shown.point(POINT)
    shown.close()
    last = out.getvalue().rsplit("\x1b[2K", 1)[-1]  # after the last erased line
    assert not re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|[\r\n]", "", last)


def test_lines_have_the_clock_of_the_run_and_not_of_the_reader(monkeypatch):
    monkeypatch.setattr(display, "clock", lambda at: f"<{at:.0f}>")
    lines = display.Lines(CONFIG)
    assert lines.event({"event": "warning", "message": "x", "time": 5.0}) == "<5>  warning: x"
    assert lines.point({**POINT, "time": 8.0}) is None
    assert lines.point({**POINT, "time": 10.0}).startswith("<10>  epoch 1/10")
    assert lines.event({"event": "cluster", "message": "y", "time": 99.0}) == "<99>  y"
    assert lines.point({**POINT, "time": 12.0}) is None
    assert lines.point({**POINT, "time": 15.0}) is not None  # 99 was on another clock


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [("json", display.JsonDisplay), ("plain", display.PlainDisplay), ("auto", display.PlainDisplay)],
)
def test_the_option_chooses_the_display(chosen, kind):
    assert type(display.choose(chosen, CONFIG).shows) is kind


EVENTS = (
    lambda line: {"event": "worker_failed", "rank": 1, "error": line, "host": line, "lost": True},
    lambda line: {"event": "warning", "message": line},
    lambda line: {"event": "cluster", "message": line},
    lambda line: {"event": "storage_away", "message": line},
    lambda line: {"event": "checkpoint_damaged", "checkpoint": line},
    lambda line: {**STARTED, "precision_reason": line},
)


@pytest.mark.parametrize("event", EVENTS, ids=["worker", "warning", "cluster", "storage", "checkpoint", "started"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize("kind", ["plain", "live", "json"])
def test_every_display_shows_text_as_it_is(kind, line, event, monkeypatch, capsys):
    if kind == "live":
        shown, out = live(monkeypatch)
    else:
        shown = display.PlainDisplay(CONFIG) if kind == "plain" else display.JsonDisplay()
    shown.event(event(line))
    shown.close()
    printed = out.getvalue() if kind == "live" else capsys.readouterr().out
    assert not FORBIDDEN & set(printed)
    if kind == "json":
        assert json.loads(printed) == event(line)
    else:
        joined = printed.replace("\n", "")  # a long line is folded at the terminal's width
        for word in words(line):
            assert word in joined


class Broken:
    """A display whose terminal is gone, or that has a bug."""

    def __init__(self, error):
        self.error = error
        self.closed = 0

    def event(self, event):
        raise self.error

    def point(self, point):
        raise self.error

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closing tag")], ids=["pipe", "bug"])
@pytest.mark.parametrize("call", ["event", "point"])
def test_a_display_that_fails_ends_itself_alone(call, error, capsys):
    broken = Broken(error)
    guarded = display.Guarded(broken)
    getattr(guarded, call)({})
    getattr(guarded, call)({})
    guarded.close()
    assert (broken.closed, guarded.shows) == (1, None)
    said = capsys.readouterr().err
    assert said == ("" if isinstance(error, OSError) else "The display failed (ValueError: closing tag); the run "
                    "continues.\n")  # fmt: skip


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"event": "warning", "message": "small batch"}, "warning: small batch"),
        ({"event": "run_ended", "status": "finished"}, None),
        ({"event": "report_written", "seconds": 1.0}, None),
        (
            {"event": "rolled_back", "left_out": [41, 60]},
            "rolled back: the loss was not finite; skipping steps 41 to 60",
        ),
        (STARTED, "training started (attempt 2) from step 30: 2 workers on cpu, 1 thread each, fp32: no units"),
        (
            {"event": "worker_failed", "rank": 0, "error": "ValueError: it broke", "lost": False},
            "worker 0 failed: ValueError: it broke",
        ),
        ({"event": "worker_failed", "rank": 0, "error": "it broke"}, "worker 0 failed: it broke"),  # an older record's
    ],
)
def test_events_have_sentences(event, sentence):
    assert display.event_sentence(event) == sentence
