import json
import re
import time

import pytest

from trainer import resolve
from trainer.observe import display
from trainer.storage.record import Record

CONFIG = resolve.load("seed")
POINT = {
    "time": 1010.0,
    "attempt": 1,
    "workers": 1,
    "epoch": 1,
    "step": 1875,
    "train_loss": 1.23456,
    "samples": 60_000,
    "seconds": 10.0,
    "samples_per_second": 6000.0,
}
EPOCH = {**POINT, "test_loss": 0.5, "test_accuracy": 0.8234}


def test_a_plain_line_has_epoch_step_loss_accuracy_speed_workers_and_eta(capsys):
    display.PlainDisplay(CONFIG).point(EPOCH)
    line = capsys.readouterr().out
    for part in ("epoch 1/10", "step 1875/18750", "loss 1.2346", "test accuracy 82.34%", "6,000 samples/s", "1 worker"):
        assert part in line
    assert "ETA 1:30" in line  # 9 more epochs of 10 s


def test_plain_lines_inside_an_epoch_come_every_few_seconds_only(capsys, monkeypatch):
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


def test_a_live_table_shows_the_same_and_goes_away_at_the_end(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    live = display.LiveDisplay(CONFIG)
    live.point(EPOCH)
    shown = live._console.render_str("")  # the console lives
    assert shown is not None
    live.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert "test accuracy 82.34%" in text
    assert live._live.is_started is False


@pytest.mark.parametrize(
    ("chosen", "kind"), [("json", "JsonDisplay"), ("plain", "PlainDisplay"), ("auto", "PlainDisplay")]
)
def test_the_display_follows_the_option_and_is_plain_where_there_is_no_terminal(chosen, kind):
    assert type(display.choose(chosen, CONFIG)).__name__ == kind


def test_the_follower_shows_what_is_added_once_and_nothing_from_before(tmp_path):
    record = Record(tmp_path)
    record.add_point({"step": 0})
    seen = []

    class Display:
        def event(self, event):
            seen.append(event["event"])

        def point(self, point):
            seen.append(point["step"])

        def close(self):
            seen.append("closed")

    with display.Follower(record, Display()):
        record.add_event("began")
        record.add_point({"step": 1})
        deadline = time.monotonic() + 10
        while seen != ["began", 1] and time.monotonic() < deadline:
            time.sleep(0.01)
        record.add_point({"step": 2})
    assert seen == ["began", 1, 2, "closed"]


@pytest.mark.parametrize(("seconds", "text"), [(None, "–"), (7.4, "7 s"), (187, "3:07"), (3753, "1:02:33")])
def test_durations_are_for_people(seconds, text):
    assert display.duration(seconds) == text


def test_a_warning_is_shown_as_one():
    assert display.event_sentence({"event": "warning", "message": "small batch"}) == "warning: small batch"
    assert display.event_sentence({"event": "run_ended", "status": "finished"}) is None


def test_the_start_of_training_is_told_with_device_and_precision():
    event = {
        "event": "training_started",
        "workers": 2,
        "threads": 1,
        "device": "cpu",
        "attempt": 2,
        "step": 30,
        "precision": "fp32",
        "precision_reason": "no units",
    }
    assert display.event_sentence(event) == (
        "training started (attempt 2) from step 30: 2 workers on cpu, 1 thread each, fp32: no units"
    )
