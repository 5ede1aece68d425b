import json

import pytest

from trainer.errors import ConfigError
from trainer.observe import cost, goodput
from trainer.storage.record import Record

GROUPS = {
    "head": {"perHour": 0.10, "currency": "USD", "source": "list price", "asOf": "2026-11"},
    "cpu": {"perHour": 0.33, "currency": "USD"},
}
PRICES = cost.prices({"TRAINER_PRICES": json.dumps({"currency": "USD", "groups": GROUPS})})
RUN = {"event": "run_started", "process_created": 1000.0, "time": 1001.0}


def node(name, at, alive=True, group="cpu"):
    return {"time": at, "node": name, "alive": alive, "pod": f"pod-{name}", "group": group, "spot": False}


def started(attempt, at, step=0, workers=1, **more):
    event = {"event": "training_started", "attempt": attempt, "started_at": at, "step": step, "time": at}
    return {**event, "workers": workers, "processes_began_at": at - 3, "entered_at": at - 1, **more}


def point(attempt, step, time, seconds, **more):
    return {"attempt": attempt, "step": step, "time": time, "seconds": seconds, "workers": 1, "epoch": 1, **more}


def test_a_run_costs_the_time_of_its_pods_at_their_prices():
    nodes = [node("h", 1000.0, group="head"), node("a", 1010.0), node("b", 1010.0), node("b", 1500.0, alive=False)]
    spent = cost.account(nodes, [RUN], [], PRICES, 4600.0)
    assert {pod["pod"]: pod["cost"] for pod in spent["pods"]} == {
        "pod-h": pytest.approx(0.1),
        "pod-a": pytest.approx(0.33 * 3590 / 3600, abs=1e-6),
        "pod-b": pytest.approx(0.33 * 490 / 3600, abs=1e-6),
    }
    assert spent["per_hour"] == pytest.approx(0.43)  # pod-b is gone
    assert (spent["currency"], spent["sources"]) == ("USD", {"head": "list price, 2026-11", "cpu": ""})


@pytest.mark.parametrize("ends", [1500.0, 2345.678, 4600.001])
def test_the_parts_add_up_to_the_pods_exactly(ends):
    nodes = [node(str(i), 1000.0 + 7.77 * i) for i in range(9)]
    events = [RUN, started(1, 1100.0), {"event": "worker_failed", "attempt": 1, "time": 1333.3}, started(2, 1400.0, 10)]
    points = [point(1, 10, 1200.0, 100.0, saving_seconds=3.3), point(1, 20, 1300.0, 99.9), point(2, 20, 1490.0, 88.8)]
    spent = cost.account(nodes, events, points, PRICES, ends)
    micros = [round(amount * 1e6) for amount in spent["parts"].values()]
    assert sum(micros) == round(spent["total"] * 1e6) == sum(round(pod["cost"] * 1e6) for pod in spent["pods"])
    assert set(spent["parts"]) == set(goodput.PARTS)
    assert spent["parts"]["redone"] > 0
    assert 0 < spent["productive"] < spent["total"]


def test_productive_is_what_the_pods_of_the_time_cost():
    nodes = [node("a", 1000.0), node("b", 1000.0), node("b", 1180.0, alive=False)]
    points = [point(1, 10, 1100.0, 36.0), point(1, 20, 1236.0, 36.0, test_accuracy=0.9, epoch=2)]
    spent = cost.account(nodes, [RUN, started(1, 1064.0)], points, PRICES, 1300.0)
    assert spent["productive"] == pytest.approx((2 * 36 + 36) / 3600 * 0.33, abs=2e-6)
    assert spent["per_epoch"] == pytest.approx(spent["total"] / 2, abs=1e-6)


def test_a_pod_counts_from_when_it_had_its_node():
    pods = [{"pod": "pod-a", "mounted_at": 1040.0}]
    events = [{**RUN, "pod": {"pod": "pod-h", "mounted_at": 900.0}}, started(1, 1100.0, pods=pods)]
    spent = cost.account([node("h", 1001.0, group="head"), node("a", 1060.0)], events, [], PRICES, 1200.0)
    assert [(pod["begins"], pod["ends"]) for pod in spent["pods"]] == [(900.0, 1200.0), (1040.0, 1200.0)]


def test_pods_of_a_driver_that_died_end_with_its_last_sign():
    again = {**RUN, "process_created": 3000.0, "time": 3001.0}
    nodes = [node("a", 1010.0), node("b", 3010.0)]
    points = [point(1, 10, 1200.0, 100.0)]
    spent = cost.account(nodes, [RUN, started(1, 1100.0), again], points, PRICES, 3100.0)
    assert [(pod["pod"], pod["ends"]) for pod in spent["pods"]] == [("pod-a", 1200.0), ("pod-b", 3100.0)]


def test_without_prices_or_nodes_there_is_no_cost(tmp_path):
    assert cost.account([], [RUN], [], PRICES, 2000.0) is None
    assert cost.of_run(Record(tmp_path), None, 2000.0) is None
    assert cost.prices({}) is None
    assert cost.budget({}) is None


@pytest.mark.parametrize("given", ["5", "[]", "{", '{"currency": "USD"}', '{"currency": "USD", "groups": {"a": {}}}'])
def test_prices_that_the_chart_did_not_write_are_refused(given):
    with pytest.raises(ConfigError, match="TRAINER_PRICES"):
        cost.prices({"TRAINER_PRICES": given})


def test_a_budget_is_an_amount_and_what_happens_when_it_is_spent():
    assert cost.budget({"TRAINER_BUDGET": "2.5"}) == cost.Budget(2.5, stop=False)
    assert cost.budget({"TRAINER_BUDGET": "2.5", "TRAINER_BUDGET_STOP": "true"}) == cost.Budget(2.5, stop=True)
    for given in ("much", "-1", "0", "inf", "nan"):
        with pytest.raises(ConfigError, match=r"TRAINER_BUDGET: .* must be a number above 0"):
            cost.budget({"TRAINER_BUDGET": given})
