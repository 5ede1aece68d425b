"""What a run costs: the time of its pods at the prices of their worker groups, split by what the time was used for.

A worker group is a kind of machine, so its price is known where it is chosen, in the values of helm/training. Without
prices no cost is shown. Nodes without work, disks, traffic and discounts are not in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.errors import ConfigError
from trainer.observe import goodput
from trainer.storage.record import Record
from trainer.storage.schema import Cost, Node, PodCost, Point

PRICES = "TRAINER_PRICES"  # in the driver's environment, from helm/training
BUDGET = "TRAINER_BUDGET"
BUDGET_STOP = "TRAINER_BUDGET_STOP"
MICRO = 1_000_000  # money is counted in millionths, so that parts add up exactly
HOUR_S = 3600.0


@dataclass(frozen=True)
class Prices:
    """Price of a pod's hour by group, and where each price is from."""

    currency: str
    per_hour: Mapping[str, float]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Budget:
    """What a run may cost, in the currency of its prices, and whether it ends when that is spent."""

    amount: float
    stop: bool


def prices(environment: Mapping[str, str] = os.environ) -> Prices | None:
    """Return the prices that the chart gives; None if it gives none.

    Raises:
        ConfigError: the variable is not the chart's.
    """
    given = environment.get(PRICES)
    if not given:
        return None
    try:
        content = json.loads(given)
        groups = content["groups"]
        return Prices(
            str(content["currency"]),
            {str(group): float(price["perHour"]) for group, price in groups.items()},
            {
                str(group): ", ".join(str(price[key]) for key in ("source", "asOf") if price.get(key))
                for group, price in groups.items()
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(
            f"{PRICES}: {given!r} is not what helm/training writes",
            "set head.price and workerGroups.*.price in its values instead",
        ) from None


def budget(environment: Mapping[str, str] = os.environ) -> Budget | None:
    """Return what the chart allows a run to cost; None if it sets no bound.

    Raises:
        ConfigError: it is not a positive number.
    """
    given = environment.get(BUDGET)
    if not given:
        return None
    try:
        amount = float(given)
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        raise ConfigError(f"{BUDGET}: {given!r} must be a number above 0", "set budget.amount in helm/training")
    return Budget(amount, environment.get(BUDGET_STOP) == "true")


def of_run(record: Record, prices: Prices | None, now: float) -> Cost | None:
    """Return what a run has cost until `now` (seconds since 1970); None without prices or nodes.

    Raises:
        StorageError: the record is damaged.
    """
    if prices is None:
        return None
    return account(record.nodes(), record.events(), record.points(), prices, now)


def account(
    nodes: Sequence[Node], events: Sequence[Any], points: Sequence[Point], prices: Prices, now: float
) -> Cost | None:
    """Return what nodes cost until `now`, by the use of the time; None if there were none.

    A pod whose group has no price costs nothing; the chart sees to it that all have one.
    """
    pods = [_pod(*each, prices) for each in _intervals(nodes, events, points, now)]
    if not pods:
        return None
    micros = {id(pod): round(pod["cost"] * MICRO) for pod in pods}
    total = sum(micros.values())
    parts = dict.fromkeys(goodput.PARTS, 0)
    for span in goodput.spans(events, points, now):
        rates = (_overlap(pod, span) * pod["per_hour"] for pod in pods)
        parts[span.part] += round(sum(rates) / HOUR_S * MICRO)
    parts["other"] = total - sum(parts.values())
    epochs = max((point["epoch"] for point in points if "test_accuracy" in point), default=0)
    return {
        "currency": prices.currency,
        "total": total / MICRO,
        "productive": parts["productive"] / MICRO,
        "parts": {part: micro / MICRO for part, micro in parts.items()},
        "per_epoch": round(total / epochs) / MICRO if epochs else None,
        "per_hour": sum(pod["per_hour"] for pod in pods if pod["ends"] >= now),
        "pods": pods,
        "sources": {group: prices.sources.get(group, "") for group in sorted({pod["group"] for pod in pods})},
    }


def _pod(node: Node, begins: float, ends: float, prices: Prices) -> PodCost:
    per_hour = prices.per_hour.get(node["group"], 0.0)
    cost = round((ends - begins) / HOUR_S * per_hour * MICRO) / MICRO
    begins, ends = round(begins, 3), round(ends, 3)
    return {
        "pod": node["pod"],
        "group": node["group"],
        "begins": begins,
        "ends": ends,
        "per_hour": per_hour,
        "cost": cost,
    }


def _overlap(pod: PodCost, span: goodput.Span) -> float:
    return max(0.0, min(pod["ends"], span.ends) - max(pod["begins"], span.begins))


def _intervals(
    nodes: Sequence[Node], events: Sequence[Any], points: Sequence[Point], now: float
) -> list[tuple[Node, float, float]]:
    """Each node with when its pod began and ended, in seconds since 1970.

    A driver that died saw none of its nodes go: those of its cluster end with its last sign of life.
    """
    began = {pod["pod"]: pod["mounted_at"] for pod in goodput.pods_in(events) if "mounted_at" in pod}
    drivers = sorted(event["process_created"] for event in events if event["event"] == "run_started")
    signs = sorted(line["time"] for line in [*nodes, *events, *points])
    found = []
    for node in (line for line in nodes if line["alive"]):
        gone = [line["time"] for line in nodes if line["node"] == node["node"] and line["time"] > node["time"]]
        later = next((moment for moment in drivers if moment > node["time"]), None)
        last_sign = max((moment for moment in signs if later is not None and moment < later), default=now)
        found.append((node, began.get(node["pod"], node["time"]), min([*gone, last_sign])))
    return found
