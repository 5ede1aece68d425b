"""The checks on a Ray node, without Ray: what Ray itself does is shown in tests/cluster/test_doctor.py."""

import socket

import pytest

from trainer.doctor import machine, ray_nodes
from trainer.doctor.check import Check, State, good

HEAD = {"NodeID": "1" * 56, "Resources": {"node:__internal_head__": 1.0, "CPU": 1.0}, "Alive": True}
WORKER = {
    "NodeID": "2" * 56,
    "Resources": {"CPU": 2.0, "GPU": 4.0},
    "Labels": {"ray.io/node-group": "gpu"},
    "Alive": True,
}


class Ray:
    """Runs a task at once; a node that does not answer raises."""

    def __init__(self, error=None):
        self.error = error
        self.options = []

    def remote(self, **options):
        self.options.append(options)
        ray = self

        class Task:
            def __init__(self, function):
                self.function = function

            def remote(self, *arguments):
                if ray.error:
                    raise ray.error
                return self.function(*arguments)

        return Task

    def get(self, answer, timeout):
        assert timeout == ray_nodes.NODE_ANSWERS_S
        return answer


@pytest.fixture(autouse=True)
def one_check(monkeypatch):
    monkeypatch.setattr(machine, "checks", lambda where, runs, data: [good(where, "CPU", "2 cores")])
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.mark.parametrize(("node", "where", "answer"), [(HEAD, "head", "2 nodes"), (WORKER, "gpu", "answers")])
def test_each_node_is_checked_under_its_groups_name(node, where, answer):
    found = ray_nodes._checks_of_node(Ray(), node, 2, "/runs", None)
    assert found[0] == good(where, "Ray", answer)
    assert [check.what for check in found] == ["Ray", "clock", "CPU"]
    assert {check.where for check in found} == {where}
    assert all(check.state is State.GOOD for check in found)


@pytest.mark.parametrize(("node", "gpus"), [(HEAD, 0), (WORKER, 1)])
def test_a_node_with_gpus_is_checked_with_one(node, gpus):
    ray = Ray()
    ray_nodes._checks_of_node(ray, node, 2, "/runs", None)
    assert (ray.options[0]["num_cpus"], ray.options[0]["num_gpus"]) == (0, gpus)


def test_a_node_that_does_not_answer_is_wrong():
    (check,) = ray_nodes._checks_of_node(Ray(TimeoutError("no answer")), WORKER, 2, "/runs", None)
    assert (check.where, check.what, check.state) == ("gpu", "Ray", State.BAD)
    assert "no answer" in check.found
    assert check.fix


def test_a_node_without_labels_is_a_worker():
    assert ray_nodes.name_of({"Resources": {}, "Labels": None}) == "worker"


@pytest.mark.parametrize(
    ("clock", "ahead_s"), [(99.0, -1.0), (100.0, 0.0), (105.0, 0.0), (110.0, 0.0), (112.0, 2.0), (90.0, -10.0)]
)
def test_a_clock_is_off_by_what_is_certain(clock, ahead_s):
    assert ray_nodes.clock_ahead_s(clock, asked_at=100.0, answered_at=110.0) == ahead_s


def test_only_the_head_in_a_cluster_reaches_for_the_api_server(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")
    _, of_head = ray_nodes.check_here("head", "/runs", None)
    _, of_worker = ray_nodes.check_here("cpu", "/runs", None)
    assert [check["what"] for check in of_head] == ["CPU", "API server"]
    assert [check["what"] for check in of_worker] == ["CPU"]
    assert "network.apiServer" in Check.from_dict(of_head[-1]).fix


def test_an_api_server_that_answers_is_good(monkeypatch):
    assert list(ray_nodes.check_api_server("head")) == []  # not in a pod
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.getsockname()[1]))
        (check,) = ray_nodes.check_api_server("head")
    assert check.state is State.GOOD
