import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from support.fake_kube import COMPLETE, FakeKube, rayjob
from support.points import EPOCH

from trainer import resolve
from trainer.cluster import bundle, client
from trainer.errors import ClusterError, ConfigError, NoSuchRunError
from trainer.storage import logs, store
from trainer.storage.record import Record

SECRET = "wJalrXUtnFEMI/K7MDENG"
GONE = ClusterError("the API server of kind does not answer", "start it")
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_ACCESS_KEY_ID": "training",
    "HOME": "/home/somebody",
    "RAY_AUTH_TOKEN": "abc",
}


@pytest.fixture
def record(tmp_path):
    """A finished run whose log and events hold a secret."""
    record = Record(tmp_path / "runs" / "r1")
    record.create(resolve.load("seed"), {})
    record.add_event({"event": "warning", "message": f"could not sign with {SECRET}"})
    record.add_event({"event": "warning", "message": "https://me:hunter2@host/x is away, 10 b@c"})
    record.add_event({"event": "training_started", "attempt": 1})
    record.add_point(EPOCH)
    record.write_result({"status": "finished", "ended_at": 5000.0})
    store.write(record.weights, b"weights")
    store.write(f"{record.place}/checkpoints/step-1/state", b"x")
    store.write(f"{logs.folder(record.place, 2)}/worker-0.err", f"\xff key {SECRET}\n".encode("latin-1"))
    return record


def contents(file):
    with tarfile.open(file) as archive:
        return {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}


def test_a_bundle_has_record_and_logs_and_no_secret_or_weights(record, tmp_path):
    names = bundle.write("r1", tmp_path / "r1.tar.gz", record, GONE, environment=ENVIRONMENT)
    found = contents(tmp_path / "r1.tar.gz")
    assert sorted(found) == names
    assert {"README.txt", "record/config.yaml", "record/events.jsonl", "logs/attempt-2/worker-0.err"} <= set(names)
    assert [name for name in names if "model" in name or "step-1" in name] == []
    everything = b"\n".join(found.values())
    assert b"training_started" in everything  # an ID is no secret, and may be a word
    assert SECRET.encode() not in everything
    assert b"hunter2" not in everything
    assert b"https://<hidden>@host/x is away, 10 b@c" in everything
    assert found["logs/attempt-2/worker-0.err"] == b"\xff key <hidden>\n"
    assert str(GONE).encode() in found["README.txt"]
    assert b"--prometheus URL" in found["README.txt"]


def test_what_kubernetes_says_of_secrets_stays_and_what_is_in_them_goes():
    pod = {
        "metadata": {"name": "p", "annotations": {"auth-token": "t0p", "color": "blue"}},
        "spec": {
            "containers": [
                {
                    "name": "ray-head",
                    "env": [
                        {"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET},
                        {"name": "DB_PASSWORD", "value": "x"},
                        {"name": "HOME", "value": "/tmp"},
                        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "object-store", "key": "auth_token"}}},
                    ],
                }
            ],
            "volumes": [{"name": "v", "secret": {"secretName": "tls"}}],
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        },
    }
    shown = bundle.without_secrets(pod)
    (container,) = shown["spec"].pop("containers")
    assert [each.get("value") for each in container["env"]] == ["<hidden>", "<hidden>", "/tmp", None]
    assert container["env"][3] == pod["spec"]["containers"][0]["env"][3]
    assert shown["spec"]["volumes"] == pod["spec"]["volumes"]
    assert shown["spec"]["tolerations"] == pod["spec"]["tolerations"]
    assert shown["metadata"]["annotations"] == {"auth-token": "<hidden>", "color": "blue"}


def test_a_bundle_has_the_objects_and_logs_of_the_run_alone(record, tmp_path, monkeypatch):
    kube = FakeKube()
    kube.jobs["r1"] = rayjob(**COMPLETE)
    monkeypatch.setattr(kube, "pod_log", lambda pod, container, since_s=None: kube.logs[pod])
    kube.logs["r1-abc"] = "the driver's lines\n"
    bundle.write("r1", tmp_path / "out.tar.gz", record, kube)
    found = contents(tmp_path / "out.tar.gz")
    assert json.loads(found["cluster/rayjob.json"])["metadata"]["name"] == "r1"
    assert {pod["metadata"]["name"] for pod in json.loads(found["cluster/pods.json"])} == {"r1-abc"}
    assert b"the driver's lines" in b"".join(content for name, content in found.items() if name.endswith(".log"))


def test_the_metrics_are_those_of_half_an_hour_before_the_runs_end(record, tmp_path):
    asked = []

    class Prometheus(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(parse_qs(urlsplit(self.path).query))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"result": [{"metric": {"run": "r1"}}]}}).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Prometheus) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        bundle.write("r1", tmp_path / "out.tar.gz", record, GONE, prometheus=url)
        server.shutdown()
    assert len(json.loads(contents(tmp_path / "out.tar.gz")["metrics.json"])) == len(asked) == 2
    assert 'run="r1"' in asked[0]["query"][0]
    assert [float(asked[0][key][0]) for key in ("start", "end")] == [3200.0, 5015.0]


def test_a_prometheus_that_is_none_is_said_in_the_bundle(record, tmp_path):
    bundle.write("r1", tmp_path / "out.tar.gz", record, GONE, prometheus="http://127.0.0.1:1")
    assert b"Prometheus at http://127.0.0.1:1 does not answer" in contents(tmp_path / "out.tar.gz")["README.txt"]


def test_a_file_that_exists_is_not_overwritten(record, tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="mine exists"):
        bundle.write("r1", tmp_path / "mine", record, GONE)
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_run_that_nobody_has_gets_no_bundle(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "connect", lambda context=None, namespace=None: FakeKube())
    with pytest.raises(NoSuchRunError, match="r7"):
        client.bundle("r7", tmp_path / "out.tar.gz", storage=str(tmp_path))
    assert not (tmp_path / "out.tar.gz").exists()


def test_what_could_not_be_asked_is_named_with_the_reason(monkeypatch, record, tmp_path):
    def refused(context=None, namespace=None):
        raise GONE

    monkeypatch.setattr(client, "connect", refused)
    client.bundle("r1", tmp_path / "here.tar.gz", storage=str(tmp_path / "runs"))
    found = contents(tmp_path / "here.tar.gz")
    assert b"the API server of kind does not answer; start it" in found["README.txt"]
    assert "record/result.json" in found
    kube = FakeKube()
    kube.jobs["r1"] = rayjob(**COMPLETE)
    monkeypatch.setattr(kube, "pod_log", lambda pod, container, since_s=None: "")
    monkeypatch.setattr(client, "connect", lambda context=None, namespace=None: kube)
    client.bundle("r1", tmp_path / "there.tar.gz", storage=str(tmp_path / "empty"))
    found = contents(tmp_path / "there.tar.gz")
    assert b"r1 is neither a run in" in found["README.txt"]
    assert "cluster/rayjob.json" in found
