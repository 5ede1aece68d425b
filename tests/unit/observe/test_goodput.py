import pytest

from trainer.observe.goodput import PARTS, START_UP, account, began_at, without_redone, worker_seconds


def started(attempt, at, step=0, workers=1, **more):
    event = {"event": "training_started", "attempt": attempt, "started_at": at, "step": step, "time": at}
    return {**event, "workers": workers, "processes_began_at": at - 3, "entered_at": at - 1, **more}


def point(attempt, step, time, workers=1, **more):
    line = {"attempt": attempt, "step": step, "time": time, "seconds": 5.0, "samples": 100}
    return {**line, "workers": workers, **more}


RUN = {"event": "run_started", "process_created": 100.0, "time": 101.0}


def test_a_healthy_run_has_no_recovery_and_nothing_redone():
    events = [RUN, started(1, 110.0), {"event": "training_finished", "attempt": 1, "finished_at": 124.0, "time": 124.0}]
    last = {"evaluation_seconds": 2.0, "last_save_seconds": 1.5}
    points = [point(1, 10, 115.0, saving_seconds=0.5), point(1, 20, 122.0, **last)]
    parts = account(events, points, now=127.0)
    assert sum(parts[part] for part in START_UP) == 10.0
    assert (parts["productive"], parts["checkpoint_stall"]) == (9.5, 2.0)
    assert (parts["evaluation"], parts["shutdown"]) == (2.0, 3.0)
    assert (parts["redone"], parts["recovery"]) == (0.0, 0.0)
    assert parts["goodput"] == pytest.approx(9.5 / 27, abs=1e-4)


def test_start_up_is_split_by_what_the_run_waited_for():
    head = {"mounted_at": 60.0, "container_began_at": 85.0}
    run = {**RUN, "submitted_at": 40.0, "pod": head}
    late = {"mounted_at": 150.0, "container_began_at": 170.0}
    workers = [{"mounted_at": 61.0, "container_began_at": 86.0}, late]
    first = started(1, 190.0, pods=workers, processes_began_at=174.0, entered_at=182.0)
    parts = account([run, first], [], now=190.0)
    assert {part: parts[part] for part in START_UP} == {
        "start_up_pods": 20.0 + 50.0,  # the head's, then a worker's that came when the driver asked for it
        "start_up_image": 25.0 + 20.0,
        "start_up_ray": 15.0 + 4.0,
        "start_up_imports": 8.0,
        "start_up_data": 8.0,
    }
    assert (parts["wall"], parts["other"]) == (150.0, 0.0)


def test_workers_that_were_there_before_the_driver_cost_no_wait():
    run = {**RUN, "pod": {"mounted_at": 80.0, "container_began_at": 90.0}}
    early = started(1, 110.0, pods=[{"mounted_at": 81.0, "container_began_at": 95.0}])
    parts = account([run, early], [], now=110.0)
    assert [parts[part] for part in START_UP] == [0.0, 10.0, 17.0, 2.0, 1.0]


def test_a_clock_that_disagrees_makes_no_negative_time():
    run = {**RUN, "submitted_at": 500.0, "pod": {"mounted_at": 300.0, "container_began_at": 90.0}}
    parts = account([run, started(1, 110.0)], [], now=110.0)
    assert began_at([run]) == 100.0
    assert min(parts.values()) >= 0.0
    assert sum(parts[part] for part in PARTS) == parts["wall"] == 10.0


def test_a_run_with_one_of_eight_workers_uses_an_eighth():
    events = [RUN, started(1, 110.0, workers=8), started(2, 120.0, step=10, workers=8)]
    points = [point(1, 10, 115.0, workers=8), point(2, 20, 125.0, workers=8)]
    assert worker_seconds(events, points, 125.0) == {"productive": 80.0, "all": 200.0}
    assert worker_seconds([RUN], [], 125.0) == {"productive": 0.0, "all": 0.0}


def test_training_after_the_last_checkpoint_counts_as_redone():
    events = [RUN, started(1, 110.0), {"event": "worker_failed", "attempt": 1, "time": 123.0}, started(2, 131.0, 10)]
    points = [point(1, 10, 115.0), point(1, 20, 120.0), point(2, 20, 136.0)]
    parts = account(events, points, now=136.0)
    assert parts["productive"] == 10.0  # to step 10, and from there to step 20 the second time
    assert parts["redone"] == 5.0 + 3.0  # to step 20 the first time, and what was not reported any more
    assert parts["recovery"] == 8.0


def test_recovery_from_a_dead_driver_counts_from_its_last_line():
    events = [RUN, started(1, 110.0), {"event": "run_started", "process_created": 160.0, "time": 161.0}]
    parts = account([*events, started(2, 170.0, 10)], [point(1, 10, 115.0), point(2, 20, 175.0)], now=175.0)
    assert parts["recovery"] == 55.0
    assert parts["wall"] == 75.0


def test_a_run_that_never_trained_has_no_goodput():
    assert account([RUN], [], now=105.0)["goodput"] == 0.0


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_parts_add_up_to_the_wall_time(attempts):
    events, points, now = [RUN], [], 100.0
    for attempt in range(1, attempts + 1):
        events.append(started(attempt, now + 10, step=10 * (attempt - 1)))
        points.append(point(attempt, 10 * attempt, now + 16))
        events.append({"event": "worker_failed", "attempt": attempt, "time": now + 18})
        now += 18
    parts = account(events, points, now)
    assert sum(parts[part] for part in PARTS) == pytest.approx(parts["wall"])
    assert all(parts[part] >= 0 for part in PARTS)


def test_a_run_of_no_time_has_no_goodput():
    assert account([], [], 100.0)["goodput"] == 0.0


def test_an_epoch_that_is_scored_again_counts_once():
    end = point(1, 10, 5.0, test_accuracy=0.8)
    again = point(2, 10, 20.0, test_accuracy=0.8)
    on = point(2, 15, 25.0)
    scored = point(2, 20, 30.0, test_accuracy=0.9)
    events = [started(1, 0.0), started(2, 18.0, step=10)]
    assert without_redone([end, again, on, scored], events) == [end, on, scored]
    same_step = point(1, 10, 6.0)  # a report at an epoch's end, before it is scored
    assert without_redone([same_step, end], events[:1]) == [same_step, end]
