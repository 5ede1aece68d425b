import time

import pytest

from trainer.driver import starting
from trainer.driver.starting import Cluster, Needs
from trainer.errors import ExitCode
from trainer.storage.record import Record

TWO_CORES = Cluster(({"CPU": 2.0},), {"CPU": 2.0}, grows=False)


@pytest.mark.parametrize(
    ("needs", "cluster", "reason"),
    [
        (Needs(2, 1, 0), TWO_CORES, None),
        (
            Needs(4, 1, 0),
            TWO_CORES,
            (
                "pending: 4 workers need 1 CPU each; the Ray cluster has room for 2 (1 node with 2 CPU and 0 GPU); "
                "no autoscaler adds nodes"
            ),
        ),
        (
            Needs(1, 2, 1),
            Cluster(({"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}), {"CPU": 5.0, "GPU": 1.0}, grows=True),
            (
                "pending: one worker needs 2 CPU and 1 GPU; the Ray cluster has room for 0 (2 nodes with 5 CPU and 1 "
                "GPU); waiting for more nodes"
            ),
        ),
        (
            Needs(2, 1, 0),
            Cluster(({"CPU": 2.0},), {"CPU": 1.0}, grows=False),
            (
                "pending: 2 workers need 1 CPU each; other work uses the Ray cluster (1 CPU and 0 GPU are free of 1 "
                "node with 2 CPU and 0 GPU)"
            ),
        ),
        (Needs(2, 1, 0), Cluster(({"CPU": 2.0},), {}, grows=False, placed=True), None),
        (Needs(1, 0, 1), Cluster(({"CPU": 1.0, "GPU": 1.0},), {"GPU": 1.0}, grows=False), None),
    ],
)
def test_a_run_says_what_its_workers_need_and_what_there_is(needs, cluster, reason):
    assert starting.blocked(needs, cluster) == reason


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Watch the start of a run on a cluster; the clock jumps a second at each look, and `gave_up` counts."""
    now = [0.0]

    def monotonic():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(starting, "POLL_S", 0.001)
    monkeypatch.setattr(starting.time, "monotonic", monotonic)
    record = Record(tmp_path / "r")
    record.folder.mkdir()

    def watch(cluster, own=False, give_up=lambda error: None):
        monkeypatch.setattr(starting.interrupts, "give_up", give_up)
        monkeypatch.setattr(starting, "see", cluster if callable(cluster) else lambda: cluster)
        monkeypatch.setattr(starting.ray_cluster, "is_own", lambda: own)
        return starting.Watch(record, Needs(4, 1, 0)), record, now

    return watch


def until(true):
    end = time.perf_counter() + 30
    while not true():
        assert time.perf_counter() < end
        time.sleep(0.001)


def test_a_run_that_can_never_start_is_given_up_with_what_is_missing(watched):
    gave_up = []
    watch, record, now = watched(TWO_CORES, give_up=lambda error: gave_up.append((now[0], error)))
    with watch:
        until(lambda: gave_up)
    at, error = gave_up[0]
    assert at >= starting.NODES_JOIN_WITHIN_S
    assert (error.exit_code, "the Ray cluster has room for 2" in str(error)) == (ExitCode.RESOURCES, True)
    assert [event["event"] for event in record.events()] == ["pending"]  # the same is said once


def test_a_cluster_of_the_runs_own_is_given_up_at_once(watched):
    gave_up = []
    watch, _, now = watched(TWO_CORES, own=True, give_up=lambda _: gave_up.append(now[0]))
    with watch:
        until(lambda: gave_up)
    assert gave_up[0] <= starting.QUIET_S + 5


def test_a_cluster_that_grows_is_waited_for_and_said_again(watched):
    watch, record, now = watched(Cluster(({"CPU": 2.0},), {}, grows=True), give_up=lambda _: pytest.fail("it gave up"))
    with watch:
        until(lambda: now[0] > 3 * starting.AGAIN_S)
    assert len(record.events()) >= 3


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (True, "pending: Ray is starting on this machine"),
        (False, "pending: the Ray cluster at 10.0.0.1:6379 has not answered yet"),
    ],
)
def test_a_ray_that_does_not_answer_yet_is_said_and_waited_for(watched, monkeypatch, own, message):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    watch, record, now = watched(lambda: None, own=own, give_up=lambda _: pytest.fail("it gave up"))
    with watch:
        until(lambda: now[0] > 3 * starting.AGAIN_S)
    assert record.events()[0]["message"] == message


def test_nothing_is_said_while_workers_train(watched):
    watch, record, now = watched(TWO_CORES, give_up=lambda _: pytest.fail("it gave up"))
    record.add_event({"event": "warning", "message": "before"})
    with watch:
        record.add_event({"event": "training_started", "attempt": 1, "workers": 4})
        until(lambda: now[0] > 2 or not watch._waits())
        begin = time.perf_counter()
        until(lambda: time.perf_counter() > begin + 0.05)
    assert [event["event"] for event in record.events()] == ["warning", "training_started"]


def test_a_group_that_was_lost_is_waited_for_like_the_first(watched):
    watch, record, _ = watched(Cluster(({"CPU": 2.0},), {}, grows=True))
    record.add_event({"event": "training_started", "attempt": 1, "workers": 4})
    with watch:
        record.add_event({"event": "worker_failed", "rank": 0, "attempt": 1, "error": "x"})
        until(lambda: record.events()[-1]["event"] == "pending")


def test_a_ray_that_does_not_answer_ends_no_watch(watched):
    answers = iter([RuntimeError("no connection")])

    def see():
        for error in answers:
            raise error
        return TWO_CORES

    watch, record, _ = watched(see)
    with watch:
        until(lambda: record.events())


@pytest.mark.server
def test_ray_tells_its_nodes_and_a_hand_made_cluster_has_no_autoscaler(monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR")
    try:
        cluster = starting.see()
        assert ([node["CPU"] for node in cluster.nodes], cluster.grows, cluster.placed) == ([3.0], False, False)
        group = ray.util.placement_group([{"CPU": 2}])
        assert group.wait(30)
        seen = starting.see()
        assert (seen.placed, seen.free["CPU"]) == (True, 1.0)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        assert starting.see().grows
    finally:
        ray.shutdown()
