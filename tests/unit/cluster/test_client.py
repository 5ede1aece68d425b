"""The functions that Python programs and the command line use."""

import subprocess
import sys

import pytest
from support.fake_kube import COMPLETE, RESULT, RUNNING, FakeKube, line, rayjob

from trainer import resolve
from trainer.cluster import client, follow, status, submit
from trainer.cluster.api import NoKubeconfigError
from trainer.cluster.submit import NoSuchRunError
from trainer.errors import ClusterError, ConfigError
from trainer.storage.record import Record

CONFIG = resolve.load("seed")
FINISHED = {"status": "finished", "exit_code": 0, "epochs": 2, "steps": 10, "test_accuracy": 0.8, "test_loss": 0.4}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    for module in (follow, status):
        monkeypatch.setattr(module, "POLL_EVERY_S", 0.0)
    monkeypatch.setattr(follow, "RESULT_COMES_S", 0.0)
    monkeypatch.setattr(submit, "READ_BY_FOLLOWERS_S", 0.0)
    monkeypatch.delenv("TRAINER_STORAGE", raising=False)


@pytest.fixture
def kube(monkeypatch):
    """The cluster that is connected to, without any run."""
    kube = FakeKube()
    monkeypatch.setattr(client, "connect", lambda context=None, namespace=None: kube)
    return kube


@pytest.fixture
def no_kubeconfig(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(tmp_path):
    """A storage with the finished run r1."""
    record = Record(tmp_path / "runs" / "r1")
    record.create(CONFIG, {})
    record.write_result(FINISHED)
    record.add_event({"event": "run_ended", "status": "finished"})
    return str(tmp_path / "runs")


def test_submit_returns_where_the_run_is(kube):
    run = client.submit("r1", overrides=["epochs=3"])
    assert (run.name, run.namespace, run.context, run.created) == ("r1", "training", "kind", True)
    assert (run.config.epochs, run.record) == (3, "s3://runs/r1")
    assert not client.submit("r1", overrides=["epochs=3"]).created


def test_submit_refuses_a_bad_name_before_it_connects(monkeypatch):
    monkeypatch.setattr(client, "connect", None)
    with pytest.raises(ConfigError, match="begins with a letter"):
        client.submit("1st")


def test_follow_returns_the_outcome_without_a_display(kube):
    run = client.submit("r1")
    kube.jobs["r1"]["status"] = COMPLETE
    kube.logs["r1-abc"] = line(RESULT)
    assert client.follow(run).result["test_accuracy"] == 0.9


@pytest.mark.parametrize(("log", "accuracy"), [("", 0.8), (line(RESULT), 0.9)])
def test_follow_reads_a_result_whose_log_is_gone_from_the_record(kube, runs, log, accuracy):
    run = client.submit("r1")
    kube.jobs["r1"]["status"] = COMPLETE
    kube.logs["r1-abc"] = log
    assert client.follow(run, storage=runs).result["test_accuracy"] == accuracy


def test_follow_does_without_a_record_that_is_not_there(kube, tmp_path):
    run = client.submit("r1")
    kube.jobs["r1"]["status"] = COMPLETE
    ended = client.follow(run, storage=str(tmp_path))
    assert (ended.status, ended.result) == ("finished", None)


def test_status_is_the_rayjobs_while_there_is_one(kube, runs):
    kube.jobs["r1"] = rayjob(**RUNNING)
    assert client.status_of("r1", storage=runs).state == "running"


def test_status_is_the_records_when_the_rayjob_is_gone(kube, runs):
    assert client.status_of("r1", storage=runs).state == "finished"
    with pytest.raises(NoSuchRunError, match="no run r1 in training of kind, which has none; a run whose"):
        client.status_of("r1")
    with pytest.raises(NoSuchRunError, match=r"no run r2 in training .* and .*runs has no run r2; "):
        client.status_of("r2", storage=runs)


def test_status_without_a_kubeconfig_is_the_records(no_kubeconfig, runs):
    assert client.status_of("r1").state == "finished"
    with pytest.raises(NoKubeconfigError, match=r"there is none at .*, and .*/runs has no run r2; set KUBECONFIG"):
        client.status_of("r2")


def test_logs_are_the_drivers_or_the_records(kube, runs):
    kube.jobs["r1"] = rayjob(**RUNNING)
    kube.logs["r1-abc"] = "1 x\n"
    assert list(client.logs("r1", storage=runs)) == ["1 x"]
    kube.jobs.clear()
    (text,) = client.logs("r1", storage=runs)
    assert '"run_ended"' in text
    with pytest.raises(NoSuchRunError):
        list(client.logs("r1"))


def test_logs_without_a_kubeconfig_are_the_records(no_kubeconfig, runs):
    assert len(list(client.logs("r1"))) == 1


def test_stop_returns_the_record_if_a_storage_has_it(kube, runs, tmp_path):
    for storage, known in ((None, False), (runs, True), (str(tmp_path / "empty"), False)):
        kube.jobs["r1"] = rayjob(**RUNNING)
        stopped = client.stop("r1", storage=storage)
        assert (stopped.run, stopped.record is not None) == ("r1", known)
        assert kube.jobs == {}


def test_stop_needs_a_cluster(no_kubeconfig, runs):
    with pytest.raises(NoKubeconfigError):
        client.stop("r1", storage=runs)


def test_a_list_is_the_namespaces_or_the_storages(kube, runs):
    kube.jobs["r9"] = rayjob("r9", **RUNNING)
    assert [row.run for row in client.list_runs().rows] == ["r9"]
    assert [row.run for row in client.list_runs(runs).rows] == ["r1"]
    assert client.list_runs().note == client.list_runs(runs).note == ""


def test_a_list_without_a_kubeconfig_is_this_machines_with_a_note(no_kubeconfig, runs, tmp_path):
    found = client.list_runs()
    assert [row.run for row in found.rows] == ["r1"]
    assert found.note.startswith("No cluster was asked (kubeconfig: there is none at ")
    assert found.note.endswith(f"These are the runs in {runs}.")


def test_this_machines_storage_is_that_of_the_environment(no_kubeconfig, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", str(tmp_path / "other"))
    assert client.list_runs().rows == []
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    assert [row.run for row in client.list_runs().rows] == ["r1"]


def test_a_list_of_a_named_context_is_never_this_machines(no_kubeconfig, runs):
    with pytest.raises(ClusterError, match=r"there is none at .*, so no context"):
        client.list_runs(context="kind")


def test_the_client_needs_neither_ray_nor_pytorch():
    code = (
        "import sys; from trainer.cluster import client; import trainer.cli.cluster;"
        "print(sorted({'ray', 'torch', 'kubernetes', 'trainer.training', 'trainer.driver'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
