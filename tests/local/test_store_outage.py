"""Runs whose S3 server fails while they train; tests/faults has more of it, and longer."""

from __future__ import annotations

import pytest
from support import proxy
from support.object_store import BUCKET, s3_server
from support.training import OFTEN, STEPS, Training

from trainer.errors import ExitCode


@pytest.fixture
def s3():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def train(between, tmp_path, data_folder):
    def start(*options, **faults):
        through = {"AWS_ENDPOINT_URL": between.endpoint}
        # a place of its own: the servers of one process have their buckets in common
        return Training(
            tmp_path, *OFTEN, *options, storage=f"s3://{BUCKET}/{tmp_path.name}", environment=through, **faults
        )

    return start


@pytest.mark.longer
def test_an_outage_of_the_store_costs_no_failure(between, train):
    between.fault = proxy.Fault(status=503, share=0.3)
    with train(pace_s=0.2) as training:
        training.until(training.committed)
        between.fault = proxy.AWAY
        step, failed = training.newest()[-1]["step"], between.failed
        training.trains(step + 10)  # it continues
        assert between.failed > failed
        between.fault = proxy.HEALTHY
        assert training.ends() == 0, training.output()
    assert training.events("worker_failed") == []
    assert len(training.events("training_started")) == 1
    assert training.committed()[0].step == STEPS
    assert training.result()["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_an_outage_at_the_end_is_waited_for_and_announced(workers, between, train):
    with train("--workers", workers, pace_s=0.2) as training:
        training.until(training.committed)
        training.trains(STEPS - 5)
        between.fault = proxy.AWAY
        training.until(lambda: "Waiting for it for at most " in training.output())
        between.fault = proxy.HEALTHY
        assert training.ends() == 0, training.output()
    assert "the storage is reachable again" in training.output()
    assert training.committed()[0].step == STEPS
    waits = [event["waits_s"] for event in training.events("storage_away") if "waits_s" in event]
    assert 60 < waits[0] <= 662  # checkpoint.max_outage_s, a pause, and a request that is not answered
    assert training.events("storage_away", "storage_back")[-1]["event"] == "storage_back"
    assert training.result()["status"] == "finished"


@pytest.mark.longer
def test_a_refused_identity_ends_the_run_without_retries(between, train):
    with train(pace_s=0.3) as training:
        training.until(training.committed)
        between.fault = proxy.FORBIDDEN
        assert training.ends() == ExitCode.STORAGE, training.output()
    assert "access denied (403)" in training.output()
    assert "Traceback" not in training.output()
    assert training.lines()[-1]["step"] < STEPS - 1
    assert len(training.groups()) == 1
