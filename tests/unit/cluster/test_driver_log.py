"""The driver's output from the pods' logs, which are texts here; a real cluster is followed in tests/cluster."""

import json

import pytest
from support.points import EPOCH

from trainer.cluster import driver_log

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

    def pod_log(self, pod, container, since_s=None):
        self.asked.append((pod, since_s))
        return self.logs[pod]


def pod(name, made="2026-11-24T15:00:00Z"):
    return {"metadata": {"name": name, "creationTimestamp": made}}


def line(event, at="15:00:01.5"):
    return f"2026-11-24T{at}Z {json.dumps(event) if isinstance(event, dict) else event}\n"


METRICS, STARTED = {"event": "metrics", **POINT}, {"time": 1000.0, "event": "training_started"}


def test_an_event_comes_once_however_often_it_is_printed():
    again = line(STARTED, "15:09:00") + line(METRICS, "15:09:00")
    pods = Pods({"a": line(STARTED) + line(METRICS), "b": again + line({**METRICS, "step": 101}, "15:09:02")})
    log = driver_log.Log()
    assert log.read(pods, [pod("a")]) == [STARTED, METRICS]
    assert log.read(pods, [pod("a")]) == []
    assert log.read(pods, [pod("a"), pod("b", "2026-11-24T15:08:00Z")]) == [{**METRICS, "step": 101}]


def test_later_reads_ask_only_for_what_may_be_new():
    pods = Pods({"a": line(STARTED)})
    log = driver_log.Log()
    log.read(pods, [pod("a")])
    pods.now += 30
    log.read(pods, [pod("a")])
    assert pods.asked == [("a", None), ("a", 35)]


def test_equal_lines_of_text_at_different_times_are_two():
    pods = Pods({"a": line("Error: x", "15:00:01") + line("Error: x", "15:00:02")})
    assert driver_log.Log().read(pods, [pod("a")]) == ["Error: x", "Error: x"]


def test_the_result_and_the_last_lines_are_kept():
    result = {"event": "result", "status": "finished", "exit_code": 0}
    log = driver_log.Log()
    log.read(Pods({"a": line(result) + line("Job 'r1' succeeded") + line('{"not": an event')}), [pod("a")])
    assert log.result == {"status": "finished", "exit_code": 0}
    assert list(log.last_lines) == ["Job 'r1' succeeded", '{"not": an event']


def test_an_event_after_a_result_is_the_next_attempts():
    result = {"event": "result", "status": "failed", "exit_code": 6}
    log = driver_log.Log()
    log.read(Pods({"a": line(result) + line(STARTED)}), [pod("a")])
    assert log.result is None


@pytest.mark.parametrize(
    "text", ['{"event": 3}', '{"event": null}', '{"a": 1}', "{", '{"event": "x"', "[1]", '{"a": ' + "[" * 100_000]
)
def test_what_is_no_event_is_text(text):
    assert driver_log.Log().read(Pods({"a": line(text)}), [pod("a")]) == [text]


def test_an_odd_result_is_no_result():
    log = driver_log.Log()
    log.read(Pods({"a": line({"event": "result", "status": "failed", "exit_code": "6"})}), [pod("a")])
    assert log.result is None


def test_older_pods_are_read_first():
    pods = Pods({"new": line("second"), "old": line("first")})
    read = driver_log.Log().read(pods, [pod("new", "2026-11-24T15:08:00Z"), pod("old")])
    assert read == ["first", "second"]


def test_only_the_last_fifty_lines_are_kept():
    log = driver_log.Log()
    log.read(Pods({"a": "".join(line(f"line {number}") for number in range(60))}), [pod("a")])
    assert (len(log.last_lines), log.last_lines[0]) == (50, "line 10")


def test_a_point_is_a_metrics_event_without_its_kind():
    assert driver_log.as_point({"event": "metrics", **EPOCH}) == EPOCH
    unknown = {**POINT, "train_loss": None, "samples_per_second": None}
    assert driver_log.as_point(unknown) == unknown


@pytest.mark.parametrize("key", [*driver_log.NUMBERS, *driver_log.NUMBERS_OR_NULL, *driver_log.OPTIONAL_NUMBERS])
@pytest.mark.parametrize("value", ["1", True, [], {}])
def test_a_point_with_something_else_for_a_number_is_none(key, value):
    assert driver_log.as_point({**EPOCH, key: value}) is None


@pytest.mark.parametrize("key", [*driver_log.NUMBERS, *driver_log.NUMBERS_OR_NULL, *driver_log.OPTIONAL_NUMBERS])
def test_a_point_that_lacks_a_number_is_none(key):
    assert driver_log.as_point({name: value for name, value in EPOCH.items() if name != key}) is None
