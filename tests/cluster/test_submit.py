"""`trainer submit` and what goes with it: the true result, the reasons, lost connections, many at once, Ctrl-C."""

import json
import re
import socket
import subprocess
import sys
from base64 import b64decode

import pytest
from support import cluster_cli, kube
from support.cluster_cli import chart, trainer
from support.kube import get, kubectl, wait_for

from trainer.cluster import diagnose
from trainer.errors import ExitCode
from trainer.storage.mirror import open_record

KNOWN_S = 30.0  # from when a reason can be known to the end of the command
RUN = "submitted"


@pytest.fixture(scope="module")
def followed(deployed, store):
    """A run that was followed from its submit to its end: exit code, and what was printed as JSON."""
    kube.forget(store, RUN)
    return trainer("submit", "--name", RUN, "--set", "epochs=2", "--workers", "2", log_format="json")


@pytest.mark.ci
def test_a_followed_run_shows_progress_and_its_records_result(followed, store):
    code, command = followed
    assert code == ExitCode.OK, command.text
    events = command.events()
    (result,) = [event for event in events if event["event"] == "result"]
    record = open_record(f"{store}/{RUN}")
    assert {key: value for key, value in result.items() if key != "event"} == record.result()
    points = [event for event in events if event["event"] == "metrics"]
    assert [{key: value for key, value in point.items() if key != "event"} for point in points] == record.points()
    assert points[0]["time"] < points[-1]["time"] < result["ended_at"]
    said = [event["message"] for event in events if event["event"] == "cluster"]
    assert any("is starting" in message for message in said)


@pytest.mark.ci
def test_the_config_is_the_users_over_the_charts_over_the_recipes(followed, store):
    config = open_record(f"{store}/{RUN}").config()
    assert (config.epochs, config.workers, config.cpus_per_worker) == (2, 2, 1)
    job = get("rayjob", RUN)
    assert job["metadata"]["annotations"]["trainer/config-sha256"] == config.sha256


@pytest.mark.ci
def test_kubectl_shows_the_progress_in_the_columns_of_the_docs(followed):
    page = (kube.ROOT / "docs" / "submit.md").read_text()
    columns = re.search(r"custom-columns=(\S+?)'?$", page, re.MULTILINE)[1]
    shown = kubectl("get", "rayjob", RUN, "-o", f"custom-columns={columns}").splitlines()
    assert "2/2" in shown[1]
    assert re.search(r"8\d\.\d\d%|9\d\.\d\d%", shown[1])
    assert "<none>" not in shown[1]


@pytest.mark.ci
def test_submitting_a_finished_run_again_shows_its_result_at_once(followed):
    code, command = trainer("submit", "--name", RUN, "--set", "epochs=2", "--workers", "2")
    assert code == ExitCode.OK
    assert "has finished already, with this config" in command.text
    assert f"Run {RUN} finished: test accuracy" in command.text


@pytest.mark.ci
def test_status_logs_and_list_know_the_run(followed, store):
    result = open_record(f"{store}/{RUN}").result()
    _, status = trainer("status", RUN, "--json")
    (shown,) = status.events()
    assert (shown["state"], shown["result"]["test_accuracy"]) == ("finished", result["test_accuracy"])
    _, logs = trainer("logs", RUN)
    assert "training started" in logs.text
    _, listed = trainer("list")
    assert re.search(rf"{RUN} +finished +2/2", listed.text)
    assert [line for line in listed.text.splitlines() if "doctor" in line] == []


@pytest.mark.ci
def test_another_config_under_the_name_is_refused_with_the_difference(followed):
    code, command = trainer("submit", "--name", RUN, "--set", "epochs=3", "--workers", "2")
    assert code == ExitCode.CONFLICT
    assert "with another config (epochs: 2 → 3)" in command.text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--workers", "3"], ExitCode.RESOURCES, "workers: 3 do not fit into any worker group without GPUs"),
        (["--set", "epochs=none"], ExitCode.CONFIG, "epochs: 'none' is not valid"),
        (["--name", "1st"], ExitCode.CONFIG, "cannot name a RayJob, which begins with a letter"),
        (["--cluster", "standing"], ExitCode.CONFIG, "set cluster.enabled=true"),
        (["--namespace", "default"], ExitCode.CLUSTER, "default of .* has no release of helm/training"),
    ],
)
def test_what_is_known_beforehand_is_refused_and_nothing_created(deployed, arguments, code, words):
    before = {kube.name_of(job) for job in get("rayjobs")}
    returned, command = trainer("submit", "--name", "refused", *arguments)
    assert returned == code, command.text
    assert re.search(words, command.text), command.text
    assert {kube.name_of(job) for job in get("rayjobs")} == before


def test_each_missing_right_is_named(nobody):
    code, command = trainer("submit", "--name", "refused", "--namespace", "training", kubeconfig=nobody)
    assert code == ExitCode.CLUSTER
    assert "rights: you may not get rayjobs" in command.text
    assert "get pods/log" in command.text
    assert "access.subjects" in command.text


def ends_within_time(command, known_at):
    """That the command was over half a minute after its reason could be known."""
    assert known_at > 0
    assert command.ended_at - known_at < KNOWN_S, command.text


def first_seen(pattern):
    """When an event like this was first seen in the namespace."""
    events = json.loads(kubectl("get", "events", "-o", "json"))["items"]
    found = [each for each in events if re.search(pattern, each.get("message") or "")]
    return min((diagnose.timestamp(each.get("firstTimestamp") or each["eventTime"]) for each in found), default=0.0)


def driver_ended(run):
    """When the driver of a run ended, by its RayJob."""
    ended = get("rayjob", run)["status"].get("rayJobInfo", {}).get("endTime")
    return diagnose.timestamp(ended) if ended else 0.0


# of the chart, of the command; exit code, words, and when it could be known
CANNOT_START = {
    "wrong-image": (
        ["image.tag=nope"],
        [],
        ExitCode.CLUSTER,
        "image: .*fashion-mnist-on-ray:nope cannot be pulled for head pod wrong-image-",
        lambda: first_seen("fashion-mnist-on-ray:nope"),
    ),
    "no-secret": (
        ["storage.existingSecret=nope"],
        [],
        ExitCode.CLUSTER,
        'cannot start: secret "nope" not found; create the Secret nope in this namespace',
        lambda: first_seen('secret "nope" not found'),
    ),
    "no-gpu": (
        [],
        ["--gpu", "--workers", "1"],
        ExitCode.RESOURCES,
        "no node has nvidia.com/gpu: worker pod no-gpu-.* \\(group gpu\\) has been pending for .* s",
        lambda: first_seen(r"Insufficient nvidia\.com/gpu"),
    ),
    "over-quota": (
        ["quota.requests\\.memory=300Mi"],
        [],
        ExitCode.RESOURCES,
        "quota: RayCluster over-quota-.* may not create a pod: exceeded quota training, requested: requests.memory=",
        lambda: first_seen("exceeded quota"),
    ),
}


@pytest.mark.parametrize("run", kube.long_but(CANNOT_START))
def test_a_run_that_cannot_start_is_given_up_with_the_fix_in_time(deployed, store, run):
    values, arguments, expected, words, known_at = CANNOT_START[run]
    kube.forget(store, run)
    with chart(*values):
        code, command = trainer("submit", "--name", run, *arguments, seconds=180)
        known = known_at()
        cluster_cli.remove(run)
    assert code == expected, command.text
    assert re.search(words, command.text), command.text
    assert f"trainer stop {run} --context {kube.CONTEXT} --namespace training" in command.text
    ends_within_time(command, known)


@pytest.mark.long
def test_a_missing_operator_is_named(deployed, store):
    kube.forget(store, "no-operator")
    operator = ("deployment/kuberay-operator", "--namespace", "kuberay-system")
    kubectl("scale", "--replicas=0", "deployment/kuberay-operator", namespace="kuberay-system")
    kubectl("rollout", "status", "deployment/kuberay-operator", namespace="kuberay-system")
    try:
        code, command = trainer("submit", "--name", "no-operator")
        made = diagnose.timestamp(get("rayjob", "no-operator")["metadata"]["creationTimestamp"])
    finally:
        kubectl("scale", "--replicas=1", "deployment/kuberay-operator", namespace=operator[2])
    cluster_cli.remove("no-operator")
    assert code == ExitCode.CLUSTER
    assert "no operator has picked up RayJob no-operator" in command.text
    ends_within_time(command, made)


@pytest.fixture
def wrong_keys(deployed):
    """A Secret with keys that the object store does not know."""
    keys = ["AWS_ACCESS_KEY_ID=training", "AWS_SECRET_ACCESS_KEY=wrong"]
    kubectl("create", "secret", "generic", "wrong-keys", *(f"--from-literal={key}" for key in keys))
    yield
    kubectl("delete", "secret", "wrong-keys")


FAILING = {
    "wrong-bucket": (
        ["storage.uri=s3://nope"],
        [],
        ExitCode.STORAGE,
        "storage: s3://nope.* cannot be .*the bucket does not exist; create it",
    ),
    "wrong-keys": (
        ["storage.existingSecret=wrong-keys"],
        [],
        ExitCode.STORAGE,
        "the store does not accept these keys",
    ),
    "diverges": (
        [],
        ["--set", "optimizer.name=sgd", "--set", "optimizer.lr=1e9"],
        ExitCode.DIVERGED,
        "by step .*: training diverged; lower optimizer.lr",
    ),
}


@pytest.mark.parametrize("run", kube.long_but(FAILING, "diverges"))
def test_a_lasting_failure_ends_the_run_without_another_cluster(wrong_keys, store, run):
    values, arguments, expected, words = FAILING[run]
    kube.forget(store, run)
    with chart(*values):
        code, command = trainer("submit", "--name", run, *arguments)
    ended = driver_ended(run)
    clusters = {get("rayjob", run)["status"].get("rayClusterName")}
    final = ("Failed", "Suspended")
    wait_for("nothing of it is left to try", lambda: get("rayjob", run)["status"]["jobDeploymentStatus"] in final, 180)
    clusters |= {get("rayjob", run)["status"].get("rayClusterName") or None} - {None}
    _, status = trainer("status", run, "--json")
    cluster_cli.remove(run)
    assert code == expected, command.text
    assert re.search(words, command.text), command.text
    assert len(clusters) == 1, command.text
    assert status.events()[0]["exit_code"] == expected
    ends_within_time(command, ended)


def test_a_missed_deadline_stops_the_run_and_is_named(deployed, store):
    kube.forget(store, "too-long")
    with chart("job.activeDeadlineSeconds=35"):
        code, command = trainer("submit", "--name", "too-long", "--set", "epochs=200")
    cluster_cli.remove("too-long")
    assert code == ExitCode.INTERRUPTED
    assert "longer than job.activeDeadlineSeconds, 35 s" in command.text


def test_twenty_submits_of_one_name_at_once_make_one_rayjob(deployed, store):
    kube.forget(store, "crowd")
    crowd = [cluster_cli.start("submit", "--name", "crowd", "--no-wait") for _ in range(20)]
    assert [command.wait(180) for command in crowd] == [0] * 20, [command.text for command in crowd]
    assert sum(command.saw(": submitted") for command in crowd) == 1
    assert sum(command.saw("exists already") for command in crowd) == 19
    jobs = [job for job in get("rayjobs") if kube.name_of(job) == "crowd"]
    assert len(jobs) == 1
    cluster_cli.remove("crowd")


def test_ctrl_c_detaches_and_stop_ends_the_run_for_every_follower(deployed, store):
    run = "let-go"
    kube.forget(store, run)
    arguments = ["submit", "--name", run, "--set", "epochs=300"]
    first = cluster_cli.start(*arguments)
    wait_for("it trains", lambda: first.saw("epoch 1/300"), 240)
    first.interrupt()
    assert first.wait(20) == ExitCode.INTERRUPTED
    assert "Detached; the run continues." in first.text
    assert f"trainer status {run} --context {kube.CONTEXT} --namespace training" in first.text
    second = cluster_cli.start(*arguments)
    wait_for("it is followed again", lambda: second.saw(r"exists already") and second.saw(r"epoch \d+/300"), 60)
    code, stop = trainer("stop", run)
    assert code == ExitCode.OK, stop.text
    assert second.wait(60) == ExitCode.INTERRUPTED
    assert re.search(rf"Run {run} was stopped by \S+@\S+; its record so far is kept", second.text)
    assert cluster_cli.pods_of(run) == []
    assert get("rayjob", run)["spec"]["suspend"] is True
    result = open_record(f"{store}/{run}").result()
    assert (result["status"], result["exit_code"]) == ("interrupted", ExitCode.INTERRUPTED)
    _, status = trainer("status", run, "--json")
    assert status.events()[0]["state"] == "stopped"
    _, listed = trainer("list", "--namespace", "training")
    assert re.search(rf"{run} +stopped", listed.text)
    again, command = trainer("stop", run)
    assert (again, f"{run} is stopped already" in command.text) == (ExitCode.OK, True)
    cluster_cli.remove(run)


@pytest.fixture
def through_a_tunnel(deployed, tmp_path):
    """A kubeconfig whose API server is reached through a tunnel of the test's own, and the tunnel."""
    tunnel = Tunnel()
    everything = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    place = everything["clusters"][0]["cluster"]
    tunnel.to = int(place["server"].rsplit(":", 1)[1])
    place["server"] = f"https://127.0.0.1:{tunnel.port}"
    assert b64decode(place["certificate-authority-data"])  # it stays: 127.0.0.1 is in the certificate
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(everything))
    tunnel.open()
    yield file, tunnel
    tunnel.cut()


class Tunnel:
    """socat would do; this is in Python so that nothing has to be installed."""

    CODE = (
        "import socket, sys, threading\n"
        "def pump(a, b):\n"
        "    try:\n"
        "        while data := a.recv(65536): b.sendall(data)\n"
        "    except OSError: pass\n"
        "    for each in (a, b):\n"
        "        try: each.shutdown(2)\n"
        "        except OSError: pass\n"
        "here = socket.create_server(('127.0.0.1', int(sys.argv[1])), reuse_port=True)\n"
        "while True:\n"
        "    a, _ = here.accept()\n"
        "    try: b = socket.create_connection(('127.0.0.1', int(sys.argv[2])))\n"
        "    except OSError:\n"  # an API server that is being replaced
        "        a.close()\n"
        "        continue\n"
        "    for pair in ((a, b), (b, a)): threading.Thread(target=pump, args=pair, daemon=True).start()\n"
    )

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.to = 0
        self._process = None

    def open(self):
        self._process = subprocess.Popen([sys.executable, "-c", self.CODE, str(self.port), str(self.to)])

    def cut(self):
        self._process.kill()
        self._process.wait()


@pytest.mark.long
def test_a_follower_survives_lost_connections_and_a_lost_head(through_a_tunnel, store):
    run, (kubeconfig, tunnel) = "survivor", through_a_tunnel
    kube.forget(store, run)
    command = cluster_cli.start("submit", "--name", run, "--set", "epochs=60", kubeconfig=kubeconfig)
    wait_for("it trains", lambda: command.saw("epoch 1/60"), 240)
    tunnel.cut()
    wait_for(
        "the cut is said", lambda: command.saw(r"is unreachable .* The run continues; retrying the connection"), 60
    )
    tunnel.open()
    wait_for("it is connected again", lambda: command.saw("connected again after"), 60)
    restart_api_server()
    (head,) = [name for name in cluster_cli.pods_of(run) if "-head-" in name]
    kubectl("delete", "pod", head, "--grace-period=0", "--force")
    code = command.wait(900)
    assert command.saw(f"head {head} is gone"), command.text
    record = open_record(f"{store}/{run}")
    result = record.result()
    assert (code, result["status"]) == (ExitCode.OK, "finished"), command.text
    assert f"test accuracy {result['test_accuracy']:.2%}" in command.text
    assert sum(event["event"] == "training_started" for event in record.events()) >= 2
    cluster_cli.remove(run)


def restart_api_server():
    """End the API server's process; the kubelet starts another."""
    node = f"{kube.CLUSTER}-control-plane"
    before = api_server(node)
    assert before
    subprocess.run(["docker", "exec", node, "kill", *before], capture_output=True, check=True)
    wait_for("another API server", lambda: api_server(node) - before, 120)
    wait_for("it answers", lambda: kubectl("get", "--raw", "/readyz", check=False) == "ok", 120)


def api_server(node):
    """Process numbers of the API server in a node."""
    found = subprocess.run(
        ["docker", "exec", node, "pidof", "kube-apiserver"], capture_output=True, text=True, check=False
    )
    return set(found.stdout.split())
