"""A run whose object store fails in every way: it continues, or ends with exit code 4 and can be resumed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

import pytest
from support import proxy
from support.object_store import BUCKET, versitygw
from support.training import OFTEN, STEPS, Training

from trainer.errors import ExitCode
from trainer.storage import layout, store

OUTAGE_S = 90  # longer than a request is tried, so that the run must notice


@pytest.fixture
def s3():
    with versitygw() as environment:
        yield environment


@pytest.fixture
def train(between, tmp_path):
    def start(*options, **faults):
        through = {"AWS_ENDPOINT_URL": between.endpoint}
        return Training(tmp_path, *OFTEN, *options, storage=f"s3://{BUCKET}/team a", environment=through, **faults)

    return start


@pytest.mark.parametrize("who", ["worker", "all"])
def test_a_kill_during_an_upload_leaves_nothing_visible(who, between, train, undisturbed, note):
    slow = proxy.Fault(bytes_per_s=200_000, of=lambda method, path: weights_of_a_checkpoint(path))
    with ExitStack() as started:
        training = started.enter_context(train(pace_s=0.1))
        training.trains(5)
        training.until(training.committed)
        between.fault = slow
        path = training.until(lambda: weights_under_way(between))
        before = {each.name for each in training.committed()}
        killed = time.time()
        if who == "worker":
            os.kill(training.pid(), signal.SIGKILL)
        else:
            training.kill_all()
        between.fault = proxy.CUT  # what the kernel would still send of it is lost, as it is with a whole node
        while path in between.uploading:
            time.sleep(0.01)
        name = path.partition(f"/{layout.CHECKPOINTS}/")[2]
        assert name not in store.files(store.join(training.place, layout.CHECKPOINTS))
        assert {each.name for each in training.committed()} == before
        between.fault = proxy.HEALTHY
        again = started.enter_context(train()) if who == "all" else training
        assert again.ends() == 0, again.output()
        assert again.state() == undisturbed(1)
    first = again.newest()[0]
    note(
        "SIGKILL of "
        + {"worker": "a worker", "all": "the driver and its whole Ray cluster"}[who]
        + " while a checkpoint is uploaded",
        "nothing of that checkpoint is visible; "
        + ("continues by itself" if who == "worker" else "the same command resumes it")
        + ", to bitwise the undisturbed weights",
        steps_lost=again.steps_lost(),
        seconds=[round(first["time"] - killed, 2)],
    )


def test_an_identity_that_is_refused_while_it_trains_ends_the_run_at_once(between, train, note):
    with train(pace_s=1) as training:
        training.trains(5)
        training.until(training.committed)
        between.fault = proxy.FORBIDDEN
        began = time.monotonic()
        assert training.ends() == ExitCode.STORAGE, training.output()
        seconds = time.monotonic() - began
        assert training.lines()[-1]["step"] < STEPS - 20
        assert len(training.groups()) == 1  # it was not tried again
        assert "access denied (403)" in training.output()
        assert "Traceback" not in training.output()
    note(
        "the object store answers 403",
        f"ends {seconds:.0f} s later and says so",
        exit_code=int(ExitCode.STORAGE),
        steps_lost=[],
    )


def test_while_a_slow_upload_is_under_way_training_goes_on(between, train, undisturbed, note):
    between.fault = proxy.Fault(bytes_per_s=300_000, of=lambda method, path: layout.CHECKPOINTS in path)
    with train(pace_s=0.3) as training:
        path = training.until(lambda: weights_under_way(between))
        step = training.until(training.newest)[-1]["step"]
        training.trains(step + 3)
        assert path in between.uploading
        assert training.ends() == 0, training.output()
        assert training.state() == undisturbed(1)
        saves = len(training.committed())
    assert saves < 10
    note(
        "an object store that takes 0.3 MB/s: a checkpoint takes as long as many steps",
        "trains on; saves the newest state, and those between not",
        steps_lost=[0],
    )


def test_a_store_that_fails_three_in_ten_requests_costs_only_time(between, train, undisturbed, note):
    between.fault = proxy.FLAKY
    with train() as training:
        assert training.ends(600) == 0, training.output()
        assert training.state() == undisturbed(1)
        assert training.events("worker_failed") == []
        assert training.result()["status"] == "finished"
    assert between.failed > 20
    note(
        "of all requests to the object store 30 % fail with 503, half of them after they were carried out; each takes "
        "up to 2 s more",
        "continues; bitwise the undisturbed weights",
        steps_lost=[0],
        requests=between.requests,
        requests_failed=between.failed,
    )


@pytest.mark.parametrize("fault", ["away", "hole"])
def test_an_outage_of_90_seconds_costs_no_failure(fault, between, train, undisturbed, note):
    with train(pace_s={"away": 2, "hole": 4}[fault]) as training:  # a request in the hole is given up after 60 s
        training.trains(5)
        training.until(training.committed)
        between.fault = {"away": proxy.AWAY, "hole": proxy.HOLE}[fault]
        began, step = time.monotonic(), training.newest()[-1]["step"]
        before = training.committed()[0]
        training.until(lambda: time.monotonic() - began >= OUTAGE_S)
        trained = training.newest()[-1]["step"] - step
        assert trained > 10  # it went on training
        assert training.committed()[0].step <= before.step + 2  # but for what was under way nothing got through
        between.fault = proxy.HEALTHY
        assert training.ends() == 0, training.output()
        assert training.state() == undisturbed(1)
        assert training.events("worker_failed") == []
        assert len(training.events("training_started")) == 1
        assert any("Training continues" in event["message"] for event in training.events("warning"))
        assert [event["event"] for event in training.events("storage_away", "storage_back")] == [
            "storage_away",
            "storage_back",
        ]
    note(
        {"away": "the object store answers 503 for 90 s", "hole": "the object store answers nothing for 90 s"}[fault],
        f"continues: {trained} steps meanwhile; bitwise the undisturbed weights",
        steps_lost=[0],
    )


def test_an_outage_at_the_final_weights_costs_no_failure(between, train, undisturbed, note):
    refused = []

    def final_weights(method, path):
        found = method == "PUT" and path.endswith(f"/r/{layout.WEIGHTS}")
        refused.extend([time.monotonic()] if found else [])
        return found

    between.fault = proxy.Fault(status=503, of=final_weights)
    with train() as training:
        training.until(lambda: refused, 120)
        training.until(lambda: time.monotonic() - refused[0] >= OUTAGE_S, 2 * OUTAGE_S)
        between.fault = proxy.HEALTHY
        assert training.ends() == 0, training.output()
        assert training.state() == undisturbed(1)
        assert training.events("worker_failed") == []
        assert len(training.events("training_started")) == 1
    note(
        "the object store answers 503 for 90 s, from the moment when the final weights are written",
        "waits for it; bitwise the undisturbed weights",
        steps_lost=[0],
    )


@pytest.mark.parametrize("fault", ["away", "hole"])
def test_a_run_stopped_by_an_endless_outage_can_be_resumed(fault, between, train, undisturbed, note):
    with train("--set", "checkpoint.max_outage_s=5", pace_s=3) as training:
        training.trains(5)
        training.until(training.committed)
        between.fault = {"away": proxy.AWAY, "hole": proxy.HOLE}[fault]
        began = time.monotonic()
        assert training.ends() == ExitCode.STORAGE, training.output()
        seconds = time.monotonic() - began
        assert "No checkpoint could be saved for 5 s" in training.output()
        assert "The record is kept in " in training.output()
        assert "Traceback" not in training.output()
    between.fault = proxy.HEALTHY
    with train("--set", "checkpoint.max_outage_s=5") as training:
        assert training.ends() == 0, training.output()
        assert training.state() == undisturbed(1)
        started = training.events("training_started")[-1]
        assert started["step"] > 0
        lost = training.steps_lost()
    note(
        {"away": "the object store answers 503, without end", "hole": "the object store answers nothing, without end"}[
            fault
        ]
        + " (`checkpoint.max_outage_s` is 5)",
        f"ends {seconds:.0f} s later and says so; the same command resumes it, to bitwise the undisturbed weights",
        steps_lost=lost,
        exit_code=int(ExitCode.STORAGE),
    )


def weights_of_a_checkpoint(path):
    return f"/{layout.CHECKPOINTS}/" in path and path.endswith(layout.WEIGHTS)


def weights_under_way(between):
    """The path of a checkpoint's weights that are being uploaded, if there are any."""
    return next((path for path in list(between.uploading) if weights_of_a_checkpoint(path)), None)
