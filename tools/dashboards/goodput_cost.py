"""Goodput and cost: what share of what was paid for has trained, where the rest went, and who paid."""

from __future__ import annotations

from tools.dashboards.grafana import (
    Json,
    bar_gauge,
    board,
    fixed,
    override,
    query,
    stat,
    table,
    thresholds,
    time_series,
)
from tools.dashboards.promql import (
    MANY,
    PARTS,
    RUN,
    alert_annotation,
    ended_early,
    ever,
    namespace_variable,
    now,
    rise,
    run_variable,
    state,
)
from tools.dashboards.runs import RUN_AND_STATE

TEAM = "app_kubernetes_io_instance"  # the release of helm/training that a run belongs to
HOURS = "suffix: h"
GOOD = thresholds("red", (0.5, "orange"), (0.8, "green"))
NO_PRICES = "No prices: set workerGroups.*.price and head.price in the values of helm/training"
PAID = ever("paid_worker_seconds", MANY)
TRAINED = ever("productive_worker_seconds", MANY)


def goodput_cost() -> Json:
    """Return the board of all runs' time and money."""
    return board(
        "trainer-goodput-cost",
        "Training / Goodput and cost",
        "How much of the workers' time trained, what the rest went into, and what it cost. Numbers are over the whole "
        "life of each run that was there in the time range.",
        variables=[namespace_variable(), run_variable(many=True)],
        rows={
            "": _numbers(),
            "Goodput": [_goodput(), _goodput_window(), _badput()],
            "Runs": [_table()],
            "Cost": [_cost_by_team(), _cost_by_run(), _price()],
        },
        annotations=[alert_annotation()],
        since="now-24h",
    )


def _numbers() -> list[Json]:
    idle = 'ray_node_gpus_utilization{namespace=~"$namespace"} < bool 5'
    cost = ever("cost", MANY, "currency")
    return [
        stat(
            "Goodput of workers",
            "Worker-time that trained what counts, as a share of the worker-time that was paid for.",
            "percentunit",
            query(f"sum({TRAINED}) / sum({PAID})", now=True),
            decimals=1,
            limits=GOOD,
        ),
        stat(
            "Worker-hours",
            "Hours that pods of workers existed, whether they trained or waited.",
            HOURS,
            query(f"sum({PAID}) / 3600", now=True),
            decimals=2,
        ),
        stat(
            "Hours that trained",
            "Of those, the hours that trained what counts.",
            HOURS,
            query(f"sum({TRAINED}) / 3600", now=True),
            decimals=2,
            color=fixed("green"),
        ),
        stat(
            "Cost",
            "Of all pods of the runs, by currency: pods' time × price; no idle nodes, disks or discounts.",
            "none",
            query(f"sum by (currency) ({cost})", "{{currency}}", now=True),
            decimals=2,
            named=True,
            no_value="no prices",
        ),
        stat(
            "Of which trained",
            "The part of the cost that trained what counts.",
            "none",
            query(f"sum by (currency) ({ever('productive_cost', MANY, 'currency')})", "{{currency}}", now=True),
            decimals=2,
            limits=thresholds("text", (0, "green")),
            named=True,
            no_value="no prices",
        ),
        stat(
            "Cost of failed runs",
            "Of runs that ended before their last step.",
            "none",
            query(f"sum by (currency) ({cost} and on ({RUN}) {ended_early(MANY)})", "{{currency}}", now=True),
            decimals=2,
            limits=thresholds("text", (0.01, "red")),
            named=True,
            no_value="none",
        ),
        stat(
            "Lost worker-hours",
            "Worker-hours of runs that ended before their last step.",
            HOURS,
            query(f"(sum({PAID} and on ({RUN}) {ended_early(MANY)}) or vector(0)) / 3600", now=True),
            decimals=2,
            limits=thresholds("green", (0.01, "orange")),
        ),
        stat(
            "Idle GPU-hours",
            "Hours in which a GPU of a Ray pod was used less than 5 %, in the time range.",
            HOURS,
            query(f"sum(sum_over_time(({idle})[$__range:1m])) / 60", now=True),
            decimals=2,
            limits=thresholds("text", (0, "green"), (1, "orange")),
            no_value="no GPU",
        ),
    ]


def _goodput() -> Json:
    return time_series(
        "Goodput since the run began",
        "Share of each run's worker-time so far that trained what counts. It starts low, with the start-up.",
        "percentunit",
        query(f"{now('productive_worker_seconds', MANY)} / {now('paid_worker_seconds', MANY)}", "{{run}}"),
        size=(8, 9),
        most=1,
    )


def _goodput_window() -> Json:
    trained = rise("productive_worker_seconds", MANY, "1h")
    paid = rise("paid_worker_seconds", MANY, "1h")
    return time_series(
        "Goodput over an hour",
        "The same for the last hour alone: what goes wrong now is not hidden by days that went well.",
        "percentunit",
        query(f"{trained} / ({paid} > 0)", "{{run}}"),
        size=(8, 9),
        most=1,
    )


def _badput() -> Json:
    lost = ever("time_seconds", f'{MANY}, part!="productive"', "part")
    return bar_gauge(
        "Where the rest went",
        "Time of all runs that did not train, by what it went into. docs/metrics.md names the parts.",
        "s",
        query(f"sort_desc(sum by (part) ({lost}) > 0)", "{{part}}", now=True),
        size=(8, 9),
        overrides=[override(part, displayName=words, color=fixed(color)) for part, (words, color) in PARTS.items()],
    )


def _table() -> Json:
    cost = ever("cost", MANY, "currency")
    return table(
        "Runs",
        "Time and money of each run. A run's name leads to its board.",
        {
            "Run": "run",
            "State": query(state(MANY), table=True),
            "Goodput": query(ever("goodput_ratio", MANY), table=True),
            "Workers' goodput": query(f"{TRAINED} / {PAID}", table=True),
            "Worker-hours": query(f"{PAID} / 3600", table=True),
            "Lost workers": query(ever("worker_failures", MANY), table=True),
            "Preemptions": query(ever("preemptions", MANY), table=True),
            "Cost": query(cost, table=True),
            "Trained": query(ever("productive_cost", MANY, "currency"), table=True),
            "Per epoch": query(f"{cost} / on ({RUN}) group_left () {ever('epoch', MANY)}", table=True),
            "Of its budget": query(f"{cost} / {ever('budget', MANY, 'currency')}", table=True),
            "Currency": "currency",
            "Team": TEAM,
            "Namespace": "namespace",
        },
        more=[query(f"{ever('step', MANY, TEAM)}", table=True)],
        size=(24, 9),
        looks=[
            *RUN_AND_STATE,
            *(
                override(
                    name,
                    unit="percentunit",
                    min=0,
                    max=1,
                    decimals=0,
                    thresholds=GOOD,
                    color={"mode": "thresholds"},
                    custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                    custom__width=140,
                )
                for name in ("Goodput", "Workers' goodput")
            ),
            override("Worker-hours", unit=HOURS, decimals=2, custom__width=105),
            override("Cost", decimals=2, custom__width=80),
            override("Trained", decimals=2, custom__width=80),
            override("Per epoch", decimals=3, custom__width=85),
            override(
                "Of its budget",
                unit="percentunit",
                decimals=0,
                thresholds=thresholds("green", (0.8, "orange"), (1, "red")),
                custom__cellOptions={"type": "color-text"},
                custom__width=110,
            ),
            override("Lost workers", custom__width=105),
            override("Preemptions", custom__width=105),
            override("Currency", custom__width=85),
            override("Team", custom__width=115),
            override("Namespace", custom__width=115),
        ],
        sort=("Worker-hours", True),
        no_value="No run in this time range",
    )


def _cost_by_team() -> Json:
    return bar_gauge(
        "Cost by team",
        "A team is a release of helm/training.",
        "none",
        query(
            f"sort_desc(sum by ({TEAM}, currency) ({ever('cost', MANY, TEAM, 'currency')}))",
            f"{{{{{TEAM}}}}} ({{{{currency}}}})",
            now=True,
        ),
        size=(8, 7),
        decimals=2,
        color=fixed("blue"),
        no_value=NO_PRICES,
    )


def _cost_by_run() -> Json:
    return bar_gauge(
        "The most expensive runs",
        "The ten runs of the time range that cost most.",
        "none",
        query(f"sort_desc(topk(10, {ever('cost', MANY, 'currency')}))", "{{run}} ({{currency}})", now=True),
        size=(8, 7),
        decimals=2,
        color=fixed("blue"),
        no_value=NO_PRICES,
    )


def _price() -> Json:
    return time_series(
        "Cost per hour",
        "What the pods of all runs cost, by run.",
        "none",
        query(now("price_per_hour", MANY, "currency"), "{{run}} ({{currency}})"),
        size=(8, 7),
        stack=True,
        steps=True,
        no_value=NO_PRICES,
    )
