"""The commands for runs on a cluster: what they print, with a cluster in memory that says all kinds of things."""

import io
import json
import shlex
import sys

import pytest
from support import hostile
from support.fake_kube import COMPLETE, RESULT, RUNNING, FakeKube, line, pod, rayjob
from support.points import EPOCH

from trainer.cli import cluster, main
from trainer.cluster import client, diagnose, follow, status, submit, waiting
from trainer.doctor import kubernetes, machine
from trainer.doctor.check import Check, State
from trainer.errors import ExitCode, LostConnectionError
from trainer.storage import layout
from trainer.storage.record import Record

STUCK = {"name": "ray-head", "image": "nope", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "x"}}}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch, tmp_path):
    for module in (follow, status):
        monkeypatch.setattr(module, "POLL_EVERY_S", 0.0)
    monkeypatch.setattr(follow, "RESULT_COMES_S", 0.0)
    monkeypatch.setattr(waiting, "CONFIRMED_AFTER_S", 0.0)
    monkeypatch.setattr(diagnose, "seconds", lambda _: 0.0)
    monkeypatch.setattr(submit, "READ_BY_FOLLOWERS_S", 0.0)
    monkeypatch.delenv("TRAINER_STORAGE", raising=False)
    monkeypatch.setenv("COLUMNS", "60")  # narrow: nothing may be cut off
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kube(monkeypatch):
    kube = FakeKube()
    monkeypatch.setattr(client, "connect", lambda context=None, namespace=None: kube)
    return kube


@pytest.fixture(params=["utf-8", "ascii"])
def encoding(request):
    return request.param


@pytest.fixture
def trainer(monkeypatch, encoding):
    """Run `trainer ...` in this process: exit code, stdout and stderr, as bytes of an encoding that were decoded."""

    def run(*arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "argv", ["trainer", *arguments])
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code = 0
        try:
            main.main()
        except SystemExit as end:
            code = end.code
        printed = []
        for stream in streams:
            stream.flush()
            printed.append(stream.buffer.getvalue().decode(encoding))
        return code, *printed

    return run


TEXT = " ".join(hostile.LINES.values())  # all of them at once


def check_is_data(printed, encoding):
    """Check that TEXT was printed whole, and that a terminal has nothing to obey."""
    words = [word for word in hostile.words(TEXT) if encoding == "utf-8" or word.isascii()]
    assert [word for word in words if word not in printed] == [], printed
    assert [character for character in printed if character in hostile.FORBIDDEN] == []


def submitted(kube, status, log=""):
    """Submit r1 without waiting, then let its RayJob be in a state."""
    client.submit("r1")
    kube.jobs["r1"]["status"] = status
    kube.logs["r1-abc"] = log


def test_submit_prints_a_runs_words_as_data(kube, trainer, encoding):
    facts = {"event": "result", "status": "failed", "exit_code": 9, "error": TEXT, "problem": TEXT, "fix": TEXT}
    events = [{"event": "warning", "message": TEXT}, {"event": "metrics", **EPOCH}, {**facts, "retry": False}]
    state = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "rayClusterName": TEXT, "failed": 3}
    create = kube.create_rayjob
    kube.create_rayjob = lambda job, dry_run=False: create({**job, "status": state})
    kube.logs["r1-abc"] = "".join(map(line, events))
    code, out, err = trainer("submit", "--name", "r1")
    assert code == ExitCode.DIVERGED
    assert "warning: " in out
    assert "82.34%" in out
    check_is_data(out, encoding)
    check_is_data(err, encoding)


def test_submit_prints_json_that_any_terminal_may_see(kube, trainer, encoding):
    submitted(kube, COMPLETE, line({"event": "warning", "message": TEXT}) + line({**RESULT, "name": TEXT}))
    code, out, _ = trainer("submit", "--name", "r1", "--log-format", "json")
    assert code == 0
    assert out.isascii()
    events = list(map(json.loads, out.splitlines()))
    assert {"event": "warning", "message": TEXT} in events
    assert events[-1] == {**RESULT, "name": TEXT}


def test_submit_prints_what_a_run_waits_for_as_data(kube, trainer, encoding):
    submitted(kube, {"jobDeploymentStatus": "Initializing", "rayClusterName": "r1-x"})
    stuck = {**STUCK, "image": TEXT}
    kube.pod_list.append(pod("h", "head", phase="Pending", containerStatuses=[stuck]))
    code, out, err = trainer("submit", "--name", "r1")
    assert code == ExitCode.CLUSTER
    check_is_data(out, encoding)
    check_is_data(err, encoding)
    stop, pasted = err.splitlines()[-1], "trainer stop r1 --context kind --namespace training"
    assert stop == f"Stop it:   {pasted}"
    assert "Error: image: " in err


def test_submit_ends_with_the_numbers_and_the_record(kube, trainer):
    submitted(kube, COMPLETE, line(RESULT))
    code, out, err = trainer("submit", "--name", "r1")
    assert (code, err) == (0, "")
    assert "Run r1 in training of kind: has finished already, with this config." in out
    numbers = "test accuracy 90.00%, test loss 0.3000"
    assert out.splitlines()[-1] == f"Run r1 finished: {numbers}; its record is s3://runs/r1."


RETURN = [
    "See it:    trainer status r1 --context kind --namespace training",
    "Follow it: trainer submit --name r1 --context kind --namespace training",
    "Stop it:   trainer stop r1 --context kind --namespace training",
]


def test_submit_without_waiting_says_how_to_return(kube, trainer):
    code, out, _ = trainer("submit", "--name", "r1", "--no-wait")
    assert code == 0
    assert out.splitlines() == [
        "Run r1 in training of kind: submitted.",
        *RETURN,
    ]
    kube.jobs["r1"]["status"] = RUNNING
    assert "joining it" in trainer("submit", "--name", "r1", "--no-wait")[1]


def test_ctrl_c_detaches(kube, trainer, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "follow", interrupt)
    code, _, err = trainer("submit", "--name", "r1")
    assert code == ExitCode.INTERRUPTED
    assert err.splitlines()[1:] == ["Detached; the run continues.", *RETURN]


def test_ctrl_c_while_submitting_says_how_to_see_whether_it_was(trainer, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "submit", interrupt)
    monkeypatch.setattr(main.os, "_exit", sys.exit)
    code, _, err = trainer("submit", "--name", "r1", "--context", "kind")
    assert code == ExitCode.INTERRUPTED
    assert err.splitlines() == [
        "Stopped while r1 was being submitted.",
        "See whether it was: trainer status r1 --context kind",
    ]


def test_status_prints_a_rayjobs_words_as_data(kube, trainer, encoding):
    notes = {"trainer/submitted-by": TEXT, "trainer/submitted-at": TEXT, "trainer/progress": TEXT}
    kube.jobs["r1"] = rayjob(annotations=notes, jobDeploymentStatus=TEXT, rayClusterName=TEXT)
    code, out, _ = trainer("status", "r1")
    assert code == 0
    check_is_data(out, encoding)
    assert len(out.splitlines()) == 5  # one line each: none wrapped
    assert trainer("status", "r1", "--json")[1].isascii()


def test_status_prints_an_end_as_data(kube, trainer, encoding):
    message = f"failed with exit code 6, last available logs\nError: {TEXT}"
    kube.jobs["r1"] = rayjob(jobStatus="FAILED", jobDeploymentStatus="Failed", message=message)
    _, out, _ = trainer("status", "r1")
    check_is_data(out, encoding)
    assert "exit code     6" in out


def test_logs_prints_lines_as_data(kube, trainer, encoding):
    kube.jobs["r1"] = rayjob(**RUNNING)
    kube.logs["r1-abc"] = line(TEXT)
    code, out, _ = trainer("logs", "r1")
    assert code == 0
    check_is_data(out, encoding)


def test_list_prints_cells_as_data(kube, trainer, encoding):
    notes = {"trainer/progress": TEXT}
    kube.jobs["r1"] = rayjob(annotations=notes, jobDeploymentStatus=TEXT, endTime=TEXT)
    code, out, _ = trainer("list")
    assert code == 0
    check_is_data(out, encoding)
    assert len(out.splitlines()) == 2


def test_list_prints_a_storages_runs_as_data(trainer, encoding, tmp_path):
    record = Record(tmp_path / "runs" / "r1")
    record.create(kubernetes.Config(), {})
    record.file(layout.RESULT).write_text(json.dumps({"status": TEXT}))
    code, out, _ = trainer("list", "--storage", "runs")
    assert code == 0
    check_is_data(out, encoding)


def test_report_of_a_run_on_the_cluster_is_made_of_its_log(kube, trainer, tmp_path):
    submitted(kube, COMPLETE, line({"event": "metrics", **EPOCH}) + line(RESULT))
    code, out, err = trainer("report", "r1")
    assert (code, out) == (0, "Report: report_r1/report.html\n")
    assert err == "r1 is not in runs: what the log on the cluster has of it is shown.\n"
    html = (tmp_path / "report_r1" / "report.html").read_text()
    assert "82.34%" in html
    assert "this page was made without it" in html


def test_report_of_a_run_that_is_nowhere_names_both_places(kube, trainer):
    code, _, err = trainer("report", "r9")
    assert code == ExitCode.STORAGE
    assert "r9 is neither a run in " in err
    assert "there is no run r9 in training of kind" in err


def test_list_says_that_there_are_no_runs(kube, trainer):
    assert trainer("list")[1] == "There are no runs.\n"


def test_list_without_a_kubeconfig_lists_this_machines_runs(trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    Record(tmp_path / "runs" / "r1").create(kubernetes.Config(), {})
    code, out, err = trainer("list")
    assert code == 0
    assert "r1" in out
    assert "No cluster was asked (kubeconfig: there is none at " in err


def test_stop_prints_an_error_as_data(kube, trainer, encoding):
    kube.jobs["other"] = rayjob(TEXT)
    kube.jobs["other"]["metadata"]["name"] = TEXT
    code, _, err = trainer("stop", "r1")
    assert code == ExitCode.STORAGE
    check_is_data(err, encoding)
    assert "Error: name: there is no run r1" in err


def test_stop_says_what_it_did_and_how_far_the_run_was(kube, trainer, tmp_path):
    record = Record(tmp_path / "runs" / "r1")
    record.create(kubernetes.Config(), {})
    record.file(layout.RESULT).write_text('{"status": "interrupted", "epochs": 2, "exit_code": 130}')
    kube.jobs["r1"] = rayjob(**RUNNING)
    code, out, err = trainer("stop", "r1", "--storage", "runs")
    assert code == 0
    assert err == "Stopping r1: signalling its driver and waiting for its pods to end.\n"
    epochs = kubernetes.Config().epochs
    assert out.splitlines() == [
        "Run r1 is stopped, and its pods are gone. Its record is kept.",
        f"Its record {tmp_path}/runs/r1: stopped, epoch 2/{epochs}.",
    ]


def test_stop_of_a_finished_run_says_so_and_deletes_nothing(kube, trainer):
    kube.jobs["r1"] = rayjob(**COMPLETE)
    assert trainer("stop", "r1") == (0, "r1 has finished; nothing to stop.\n", "")
    assert kube.deleted == []


def test_stop_gives_the_command_that_continues_the_run(kube, trainer):
    submitted(kube, RUNNING)
    out = trainer("stop", "r1", "--no-wait")[1].splitlines()
    assert out[0] == "Run r1 is stopped, and its pods are ending. Its record is kept."
    assert out[1].startswith("To continue it: trainer submit --name r1 --recipe fast --set ")
    assert out[1].endswith(" --context kind --namespace training")
    assert trainer("stop", "r1")[1] == "r1 is stopped already; nothing to stop.\n"
    assert "stopped" in trainer("list")[1]
    words = shlex.split(out[1].removeprefix("To continue it: "))
    assert "Run r1 in training of kind: submitted." in trainer(*words[1:], "--no-wait")[1]


def test_stop_of_a_run_that_never_started_claims_no_record(kube, trainer):
    kube.jobs["r1"] = rayjob(jobDeploymentStatus="Initializing")
    assert trainer("stop", "r1")[1] == "Run r1 is stopped, and its pods are gone. It had not started training.\n"


def test_no_such_run_is_one_exit_code_wherever_it_is_looked_for(kube, trainer, tmp_path):
    for arguments in (
        ["stop", "r1"],
        ["status", "r1"],
        ["logs", "r1"],
        ["report", "r1"],
        ["status", "r1", "--storage", "."],
    ):
        code, out, err = trainer(*arguments)
        assert (code, out) == (ExitCode.STORAGE, ""), arguments
        assert err.startswith("Error: "), arguments


def test_submit_without_creating_says_what_would_be(kube, trainer):
    out = trainer("submit", "--name", "r1", "--dry-run")[1]
    assert out == "Run r1 can be submitted: training of kind, 237 steps, workers: 2.\n"
    assert kube.jobs == {}


def test_list_and_status_in_json_have_numbers(kube, trainer):
    notes = {"trainer/progress": json.dumps({"epoch": 1, "epochs": 3, "test_accuracy": 0.5, "seconds_left": 84.5})}
    kube.jobs["r1"] = rayjob(annotations=notes, jobDeploymentStatus="Initializing")
    (row,) = json.loads(trainer("list", "--json")[1])
    found = json.loads(trainer("status", "r1", "--json")[1])
    assert (row["epoch"], row["epochs"], row["test_accuracy"], row["ended_at"]) == (1, 3, 0.5, None)
    assert (found["epoch"], found["test_accuracy"], found["seconds_left"], found["exit_code"]) == (1, 0.5, 84.5, None)
    assert json.loads(trainer("status", "--json")[1]) == [row]


def test_list_says_how_old_the_numbers_of_a_running_run_are(kube, trainer, monkeypatch):
    notes = {"trainer/progress": json.dumps({"epoch": 12, "epochs": 60, "time": 1000.0})}
    kube.jobs["r1"] = rayjob(annotations=notes, **RUNNING)
    monkeypatch.setattr(cluster.time, "time", lambda: 1300.0)
    assert "12/60 (5:00 ago)" in trainer("list", "--namespace", "training")[1]
    monkeypatch.setattr(cluster.time, "time", lambda: 1010.0)
    assert "ago" not in trainer("list", "--namespace", "training")[1]


def test_list_names_where_runs_are_if_they_are_in_several_places(kube, trainer, tmp_path):
    kube.jobs["r9"] = rayjob("r9", **RUNNING)
    assert "where" not in trainer("list")[1]
    Record(tmp_path / "runs" / "r1").create(kubernetes.Config(), {})
    rows = [row.split() for row in trainer("list")[1].splitlines()]
    assert rows[0][-1] == "where"
    assert {row[0]: row[-1] for row in rows[1:]} == {"r9": "kind", "r1": "runs"}


def test_list_shows_what_it_has_and_fails_if_the_cluster_is_away(kube, trainer, tmp_path):
    kube.rayjobs = lambda: (_ for _ in ()).throw(LostConnectionError("cluster: no answer"))
    Record(tmp_path / "runs" / "r1").create(kubernetes.Config(), {})
    code, out, err = trainer("list")
    assert (code, err) == (ExitCode.CLUSTER, "Error: cluster: no answer.\n")
    assert "r1" in out


@pytest.mark.parametrize("given", [["list", "--storage", "none"], ["status", "--storage", "none"]])
def test_list_of_a_storage_that_does_not_exist_fails(trainer, given):
    code, out, err = trainer(*given)
    assert (code, out) == (ExitCode.STORAGE, "")
    assert "none does not exist" in err


def test_logs_take_a_number_of_lines_and_a_duration(kube, trainer, monkeypatch):
    seen = []
    monkeypatch.setattr(client, "logs", lambda run, **given: seen.append(given) or [])
    trainer("logs", "r1", "--tail", "3", "--since", "5m", "--raw")
    assert (seen[0]["tail"], seen[0]["since_s"], seen[0]["raw"]) == (3, 300.0, True)
    code, _, err = trainer("logs", "r1", "--since", "soon")
    assert (code, "--since: 'soon' is not a duration; write it as 30s" in err) == (ExitCode.CONFIG, True)


def test_logs_of_a_worker_are_its_last_lines(trainer, monkeypatch):
    seen = []
    monkeypatch.setattr(client, "output", lambda run, **given: seen.append(given) or ["one", "two", "three"])
    assert trainer("logs", "r1", "--worker", "0", "--tail", "2")[1] == "two\nthree\n"
    assert trainer("logs", "r1", "--attempt", "3")[1] == "one\ntwo\nthree\n"
    assert [(given["worker"], given["attempt"]) for given in seen] == [(0, None), (None, 3)]
    for option in (["--since", "5m"], ["--follow"], ["--raw"]):
        code, _, err = trainer("logs", "r1", "--worker", "0", *option)
        assert (code, f"leave {option[0]} out" in err) == (ExitCode.CONFIG, True)


@pytest.mark.parametrize("command", ["status", "logs", "stop", "submit"])
def test_the_storage_may_be_that_of_the_environment(kube, trainer, monkeypatch, command):
    seen = []

    def called(*_, storage=None, **__):
        seen.append(storage)
        raise KeyboardInterrupt

    for name in ("status_of", "logs", "stop"):
        monkeypatch.setattr(client, name, called)
    monkeypatch.setattr(client, "follow", lambda run, display, storage: called(storage=storage))
    monkeypatch.setattr(main, "_fail", lambda sentence, code, then="": sys.exit(code))
    monkeypatch.setenv("TRAINER_STORAGE", "s3://mine")
    run = ["--name", "r1"] if command == "submit" else ["r1"]
    assert trainer(command, *run)[0] == ExitCode.INTERRUPTED
    assert seen == ["s3://mine"]


def test_doctor_prints_checks_as_data(trainer, encoding, monkeypatch):
    found = [Check(TEXT, TEXT, State.BAD, TEXT, TEXT, ExitCode.STORAGE), Check("here", "CPU", State.GOOD, "2 cores")]
    monkeypatch.setattr(machine, "checks", lambda *_: found)
    code, out, _ = trainer("doctor")
    assert code == ExitCode.STORAGE
    check_is_data(out, encoding)
    assert [row.split()[0] for row in out.splitlines()] == ["wrong", "ok"]
    assert trainer("doctor", "--json")[1].isascii()


def test_doctor_checks_the_cluster_too_if_asked(kube, trainer, monkeypatch):
    monkeypatch.setattr(machine, "checks", lambda *_: [])
    monkeypatch.setattr(kubernetes, "checks", lambda kube, log: [Check("cluster", "x", State.WARNING, "y")])
    code, out, _ = trainer("doctor", "--cluster")
    assert (code, out.split()) == (0, ["warning", "cluster", "x", "y"])


def test_the_styles_are_those_of_the_states():
    assert set(cluster.STYLES) == {state.value for state in State}
