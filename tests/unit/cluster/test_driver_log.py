"""The follower's log and annotations. The pods' logs here are texts; a real cluster is followed in tests/cluster."""

import json

from trainer import resolve
from trainer.cluster import driver_log, follow
from trainer.observe.display import Pace

CONFIG = resolve.load("fast")
POINT = {
    "time": 1010.0,
    "attempt": 1,
    "workers": 2,
    "epoch": 2,
    "step": 100,
    "train_loss": 0.51234,
    "samples": 76_800,
    "seconds": 10.0,
    "samples_per_second": 6123.4,
}


class Pods:
    """Stands in for a cluster of which only logs are asked."""

    def __init__(self, logs):
        self.logs, self.now, self.asked = logs, 2000.0, []

    def log(self, pod, container, since_s=None):
        self.asked.append((pod, since_s))
        return self.logs[pod]


def pod(name, made="2026-11-24T15:00:00Z"):
    return {"metadata": {"name": name, "creationTimestamp": made}}


def line(event, at="15:00:01.5"):
    return f"2026-11-24T{at}Z {json.dumps(event) if isinstance(event, dict) else event}\n"


METRICS, STARTED = {"event": "metrics", **POINT}, {"time": 1000.0, "event": "training_started"}


def test_events_and_points_come_once_however_often_submitters_print_them():
    again = line(STARTED, "15:09:00") + line(METRICS, "15:09:00")
    pods = Pods({"a": line(STARTED) + line(METRICS), "b": again + line({**METRICS, "step": 101}, "15:09:02")})
    log = driver_log.Log()
    assert log.read(pods, [pod("a")]) == [STARTED, METRICS]
    assert log.read(pods, [pod("a")]) == []
    assert log.read(pods, [pod("a"), pod("b", "2026-11-24T15:08:00Z")]) == [{**METRICS, "step": 101}]


def test_the_first_look_reads_all_and_later_ones_only_what_may_be_new():
    pods = Pods({"a": line(STARTED)})
    log = driver_log.Log()
    log.read(pods, [pod("a")])
    pods.now += 30
    log.read(pods, [pod("a")])
    assert pods.asked == [("a", None), ("a", 35)]


def test_equal_lines_of_text_at_different_times_are_two():
    pods = Pods({"a": line("Error: x", "15:00:01") + line("Error: x", "15:00:02")})
    assert driver_log.Log().read(pods, [pod("a")]) == ["Error: x", "Error: x"]


def test_the_result_and_the_last_words_are_kept():
    result = {"event": "result", "status": "finished", "exit_code": 0}
    log = driver_log.Log()
    log.read(Pods({"a": line(result) + line("Job 'r1' succeeded") + line('{"not": an event')}), [pod("a")])
    assert log.result == {"status": "finished", "exit_code": 0}
    assert list(log.last_lines) == ["Job 'r1' succeeded", '{"not": an event']


def test_progress_is_put_into_words_for_kubectl():
    pace = Pace(CONFIG)
    pace.add({**POINT, "test_accuracy": 0.8765, "test_loss": 0.4})
    pace.add({**POINT, "step": 101, "time": 1010.1})
    notes = follow.progress_notes(pace, CONFIG)
    assert notes["trainer/epoch"] == f"2/{CONFIG.epochs}"
    assert notes["trainer/step"] == f"101/{CONFIG.total_steps}"
    assert (notes["trainer/loss"], notes["trainer/accuracy"]) == ("0.5123", "87.65%")
    assert notes["trainer/samples-per-second"] == "6123"
    assert notes["trainer/eta"].endswith(" s")
