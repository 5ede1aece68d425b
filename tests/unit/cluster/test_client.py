"""The functions that Python programs and the command line use."""

import json
import re
import subprocess
import sys
import time

import pytest
from support.fake_kube import COMPLETE, MADE, RESULT, RUNNING, FakeKube, line, rayjob
from support.points import EPOCH

from trainer import resolve
from trainer.cluster import client, follow, status, submit
from trainer.cluster.api import NoKubeconfigError
from trainer.errors import ClusterError, ConfigError, LostConnectionError, NoSuchRunError, StorageError
from trainer.storage import logs, store
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
    with pytest.raises(NoSuchRunError, match=r"no run r3 in training of kind, which has none, and .*; a run whose"):
        client.status_of("r3")
    with pytest.raises(NoSuchRunError, match=r"no run r2 in training .* and .*runs has no run r2; "):
        client.status_of("r2", storage=runs)


def test_status_and_logs_know_this_machines_runs_as_list_does(kube, runs, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    assert client.status_of("r1").state == "finished"
    assert len(list(client.logs("r1"))) == 1


def test_status_without_a_kubeconfig_is_the_records(no_kubeconfig, runs):
    assert client.status_of("r1").state == "finished"
    with pytest.raises(NoKubeconfigError, match=r"there is none at .*, and .*/runs has no run r2; set KUBECONFIG"):
        client.status_of("r2")


@pytest.fixture
def printed(runs):
    """What two workers of r1 printed."""
    for worker in (0, 1):
        store.write(f"{logs.folder(f'{runs}/r1', 1)}/worker-{worker}.out", f"of worker {worker}\n".encode())


def test_a_workers_output_is_read_from_where_its_rayjob_keeps_it(kube, runs, printed, monkeypatch):
    kube.jobs["r1"] = rayjob(**RUNNING)
    monkeypatch.setattr(client.rayjob, "storage_of", lambda job: runs)
    assert client.output("r1", worker=1) == ["of worker 1"]


@pytest.mark.parametrize("given", [True, False])
def test_a_workers_output_is_read_when_its_rayjob_is_gone(kube, runs, printed, given, monkeypatch):
    if not given:
        monkeypatch.setenv("TRAINER_STORAGE", runs)
    assert client.output("r1", worker=0, storage=runs if given else None) == ["of worker 0"]
    with pytest.raises(NoSuchRunError, match="has no output of driver"):
        client.output("r1", storage=runs)
    with pytest.raises(NoSuchRunError, match=r"no run r2|r2 is neither"):
        client.output("r2", storage=runs if given else None)


AT = "2026-11-24T15:00:0{}Z"  # 1795532400 and the seconds
STARTED = {
    "event": "training_started", "time": 1795532401.0, "attempt": 1, "step": 0, "workers": 1, "threads": 1,
    "device": "cpu", "precision": "fp32", "precision_reason": "no units",
}  # fmt: skip
SCORED = {"event": "metrics", **EPOCH, "time": 1795532402.0}
HINT = "2026-11-24 15:00:00,001\tINFO cli.py:73 -- Next steps"
WORDS = [HINT, STARTED, SCORED, "Segmentation fault", {**RESULT, "name": "r1", "ended_at": 1795532404.0}]
LOG = "".join(line(each, at=f"15:00:0{second}.123456789") for second, each in enumerate(WORDS))


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def logged(kube, utc):
    kube.jobs["r1"] = rayjob(annotations={"trainer/config": json.dumps(CONFIG.model_dump())}, **RUNNING)
    kube.logs["r1-abc"] = LOG
    return kube


EPOCH_LINE = (
    "epoch 1/10  step 1875/18750  loss 1.2346  test loss 0.5000  test accuracy 82.34%  6,000 samples/s  1 worker  "
    "ETA 1:30"
)


def test_logs_are_what_submit_shows_and_none_of_rays_hints(logged):
    assert list(client.logs("r1")) == [
        "15:00:01  training started: 1 worker on cpu, 1 thread each, fp32: no units",
        f"15:00:02  {EPOCH_LINE}",
        "15:00:03  Segmentation fault",
        "15:00:04  Run r1 finished.",
    ]


def test_raw_logs_are_as_they_were_printed(logged):
    assert list(client.logs("r1", raw=True)) == LOG.splitlines()


def test_logs_may_be_the_last_lines_or_those_of_the_last_seconds(logged, monkeypatch):
    times = [text.split()[0] for text in client.logs("r1", tail=2)]
    assert times == ["15:00:03", "15:00:04"]
    assert list(client.logs("r1", tail=0)) == []
    monkeypatch.setattr(client.time, "time", lambda: 1795532410.0)
    assert [text.split()[0] for text in client.logs("r1", since_s=7.5)] == times
    assert len(list(client.logs("r1", since_s=7.5, raw=True))) == 2


def test_a_submitter_that_prints_the_log_again_repeats_no_line(logged):
    before = list(client.logs("r1"))
    again = "".join(line(each, at="15:01:00") for each in WORDS if not isinstance(each, str))
    logged.logs["r1-abc"] += again
    assert list(client.logs("r1")) == before


@pytest.mark.parametrize(
    "odd", [{"event": "rolled_back"}, {"event": "metrics"}, {"event": "warning", "time": "soon"}, {"event": "new"}]
)
def test_an_event_of_another_version_ends_no_log(logged, odd):
    logged.logs["r1-abc"] = line(odd) + line("after it")
    assert list(client.logs("r1"))[-1] == "15:00:05  after it"


def test_logs_of_a_run_of_kubectl_are_shown_without_its_config(kube, utc):
    kube.jobs["r1"] = rayjob(**RUNNING)
    kube.logs["r1-abc"] = line(SCORED)
    assert next(client.logs("r1")).startswith("15:00:02  epoch 1  step 1875  loss")


def test_logs_are_the_records_when_the_rayjob_is_gone(kube, runs):
    assert [text.split()[-1] for text in client.logs("r1", storage=runs)] == ["finished."]
    assert '"run_ended"' in next(client.logs("r1", storage=runs, raw=True))
    with pytest.raises(NoSuchRunError):
        list(client.logs("r1"))


def test_a_record_is_made_of_a_log_where_its_storage_is_out_of_reach(logged, tmp_path):
    record = client.record_from_log("r1", tmp_path)
    assert record.config() == CONFIG
    assert record.points() == [{key: value for key, value in SCORED.items() if key != "event"}]
    assert record.events() == [STARTED]
    assert record.result() == {key: value for key, value in WORDS[-1].items() if key != "event"}


def test_no_record_is_made_of_a_run_without_a_config(kube, tmp_path):
    kube.jobs["r1"] = rayjob(**RUNNING)
    with pytest.raises(NoSuchRunError, match="r1 was not created by `trainer submit`"):
        client.record_from_log("r1", tmp_path)


def test_logs_without_a_kubeconfig_are_the_records(no_kubeconfig, runs):
    assert len(list(client.logs("r1"))) == 1


def test_a_stopped_run_stays_listed_and_known(kube, logged):
    stopped = client.stop("r1")
    assert (stopped.ended, stopped.had_started, stopped.listed) == (None, True, True)
    assert [(row.run, row.state) for row in client.list_runs(namespace="training").rows] == [("r1", "stopped")]
    found = client.status_of("r1")
    assert (found.state, found.exit_code) == ("stopped", 130)
    assert re.match(r"Run r1 was stopped by \S+@\S+; its record so far is kept", found.ended)
    job = kube.jobs["r1"]
    assert job["spec"]["suspend"] is True  # so that KubeRay starts nothing of it
    assert found.submitted_at == MADE


def test_a_stopped_run_is_in_no_queue_which_would_start_it_again(kube, logged):
    logged.jobs["r1"]["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team", "app": "x"}
    client.stop("r1")
    assert kube.jobs["r1"]["metadata"]["labels"] == {"app": "x"}


def test_a_stopped_run_is_submitted_again_by_its_own_options(kube):
    client.submit("r1", recipe="seed", overrides=["epochs=3", "model.hidden=[8,8]"])
    options = client.stop("r1").submitted_with
    assert options[:4] == ["--name", "r1", "--recipe", "seed"]
    kept = [options[at + 1] for at, word in enumerate(options) if word == "--set"]
    run = client.submit("r1", recipe="seed", overrides=kept)
    assert run.created  # of the same config, or it would be refused
    assert not kube.jobs["r1"]["spec"].get("suspend")


def test_stopping_twice_says_how_it_ended_and_changes_nothing(kube, logged):
    client.stop("r1")
    before = json.dumps(kube.jobs)
    assert client.stop("r1").ended.status == "stopped"
    assert json.dumps(kube.jobs) == before


@pytest.mark.parametrize(
    ("state", "status"), [(COMPLETE, "finished"), ({"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}, "failed")]
)
def test_a_run_that_has_ended_is_not_stopped_and_nothing_deleted(kube, state, status):
    kube.jobs["r1"] = rayjob(**state)
    assert client.stop("r1").ended.status == status
    assert (kube.deleted, kube.patches) == ([], [])


def test_a_run_that_never_started_has_no_record_to_keep(kube):
    kube.jobs["r1"] = rayjob(jobDeploymentStatus="Initializing")
    assert not client.stop("r1").had_started


def test_a_run_is_stopped_also_without_the_right_to_keep_it_listed(kube, logged):
    kube.create_rayjob = lambda *_: (_ for _ in ()).throw(ClusterError("rights: no"))
    assert not client.stop("r1").listed
    assert kube.jobs == {}


@pytest.mark.parametrize("how", [KeyboardInterrupt, TimeoutError])
def test_a_run_stays_listed_if_waiting_for_its_pods_is_broken_off(kube, logged, monkeypatch, how):
    monkeypatch.setattr(submit, "pods_of", lambda *_: (_ for _ in ()).throw(how()))
    with pytest.raises(how):
        client.stop("r1")
    assert [row.state for row in client.list_runs(namespace="training").rows] == ["stopped"]


def test_stop_need_not_wait_for_the_pods(kube, logged, monkeypatch):
    monkeypatch.setattr(submit, "pods_of", lambda *_: pytest.fail("it waited"))
    assert client.stop("r1", wait=False).listed


def test_stop_says_nothing_before_it_knows_the_run(kube):
    said = []
    with pytest.raises(NoSuchRunError):
        client.stop("r1", log=said.append)
    assert said == []


def test_stop_returns_the_record_if_a_storage_has_it(kube, runs, tmp_path):
    for storage, known in ((None, False), (runs, True), (str(tmp_path / "empty"), False)):
        kube.jobs["r1"] = rayjob(**RUNNING)
        stopped = client.stop("r1", storage=storage)
        assert (stopped.run, stopped.record is not None) == ("r1", known)


def test_stop_needs_a_cluster(no_kubeconfig, runs):
    with pytest.raises(NoKubeconfigError):
        client.stop("r1", storage=runs)


def names(found):
    return [row.run for row in found.rows]


def test_a_list_has_this_machines_runs_and_the_clusters(kube, runs, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    kube.jobs["r9"] = rayjob("r9", **RUNNING)
    found = client.list_runs()
    assert [(row.run, row.where) for row in found.rows] == [("r9", "training of kind"), ("r1", runs)]
    assert (found.note, found.missing) == ("", None)


def test_a_list_of_a_storage_or_a_cluster_is_that_alone(kube, runs, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    kube.jobs["r9"] = rayjob("r9", **RUNNING)
    assert names(client.list_runs(runs)) == ["r1"]
    assert names(client.list_runs(context="kind")) == names(client.list_runs(namespace="training")) == ["r9"]


def test_a_run_of_the_cluster_whose_record_is_here_is_listed_once(kube, runs, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    client.submit("r1")
    monkeypatch.setattr(client.rayjob, "storage_of", lambda job: runs)
    assert [(row.run, row.where) for row in client.list_runs().rows] == [("r1", "training of kind")]


def test_a_list_has_this_machines_runs_also_if_the_cluster_is_away(kube, runs, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    away = LostConnectionError("cluster: no answer")
    kube.rayjobs = lambda: (_ for _ in ()).throw(away)
    found = client.list_runs()
    assert (names(found), found.missing) == (["r1"], away)
    with pytest.raises(LostConnectionError):
        client.list_runs(context="kind")


def test_a_list_without_a_kubeconfig_is_this_machines_with_a_note(no_kubeconfig, runs):
    found = client.list_runs()
    assert names(found) == ["r1"]
    assert found.note.startswith("No cluster was asked (kubeconfig: there is none at ")


def test_a_list_where_no_cluster_is_expected_has_no_note(no_kubeconfig, runs, monkeypatch, tmp_path):
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert client.list_runs().note == ""


def test_a_list_before_the_first_run_is_empty(no_kubeconfig):
    assert client.list_runs().rows == []


def test_this_machines_storage_is_that_of_the_environment(no_kubeconfig, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_STORAGE", str(tmp_path / "other"))
    with pytest.raises(StorageError, match="other does not exist"):
        client.list_runs()
    monkeypatch.setenv("TRAINER_STORAGE", runs)
    assert names(client.list_runs()) == ["r1"]


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
