"""A whole run whose storage is an S3 server: what the record, the result and the report need of it."""

from __future__ import annotations

import json

import pytest
from support.object_store import BUCKET, s3_server
from support.runs import SMALL, run_trainer

from trainer.storage import bucket as buckets
from trainer.storage import store

RUNS = f"s3://{BUCKET}/team a"


@pytest.fixture(scope="module")
def server():
    with s3_server() as environment:
        yield environment


@pytest.fixture(scope="module")
def run(server, tmp_path_factory, data_folder):
    """What the trainer printed for a finished run in the bucket, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("remote")
    options = ["--name", "r1", "--storage", RUNS, *SMALL, "--set", "epochs=1"]
    done = run_trainer(folder, "train", *options, **server)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, options, done.stdout


@pytest.fixture
def stored(server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    buckets.client.cache_clear()
    yield lambda name: store.read(f"{RUNS}/r1/{name}")
    buckets.client.cache_clear()


def test_everything_of_a_run_is_in_the_bucket_and_nowhere_else(run, stored):
    folder, _, printed = run
    files = store.files(f"{RUNS}/r1")
    assert {"config.yaml", "environment.json", "metrics.jsonl", "events.jsonl", "result.json"} <= set(files)
    assert {"evaluation.json", "report.html", "model.safetensors", "plots/accuracy.png"} <= set(files)
    assert json.loads(stored("result.json"))["status"] == "finished"
    assert f"Report: {RUNS}/r1/report.html" in printed
    assert list(folder.iterdir()) == []


def test_a_finished_run_shows_its_result_from_the_bucket_at_once(run, server):
    folder, options, _ = run
    again = run_trainer(folder, "train", *options, **server)
    assert again.returncode == 0
    assert "Run r1 is finished already" in again.stdout


def test_the_weights_in_the_bucket_score_as_the_run_said(run, server, stored):
    folder, *_ = run
    done = run_trainer(folder, "evaluate", "r1", "--storage", RUNS, "--json", **server)
    assert done.returncode == 0, done.stderr
    result = json.loads(stored("result.json"))
    scored = json.loads(done.stdout)
    assert scored["test_accuracy"] == pytest.approx(result["test_accuracy"], abs=2e-4)


def test_the_report_is_made_again_from_the_bucket_alone(run, server, stored, tmp_path):
    before = stored("report.html")
    store.delete(f"{RUNS}/r1/report.html")
    done = run_trainer(tmp_path, "report", f"{RUNS}/r1", **server)
    assert done.returncode == 0, done.stderr
    assert stored("report.html") == before
    local = run_trainer(tmp_path, "report", "r1", "--storage", RUNS, "--output", "page", **server)
    assert local.stdout == "Report: page/report.html\n"
    assert (tmp_path / "page" / "report.html").exists()


def test_no_secret_is_in_the_record_or_the_output(run, server, stored):
    *_, printed = run
    secret = server["AWS_SECRET_ACCESS_KEY"]
    assert secret not in printed
    assert [name for name in store.files(f"{RUNS}/r1") if secret.encode() in (stored(name) or b"")] == []
