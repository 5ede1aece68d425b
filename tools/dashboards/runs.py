"""Runs: which runs there are, how they do, and what needs somebody."""

from __future__ import annotations

from tools.dashboards.grafana import (
    Json,
    board,
    fixed,
    override,
    query,
    stat,
    table,
    thresholds,
    time_series,
    value_names,
)
from tools.dashboards.promql import (
    COMING,
    FAILED,
    MANY,
    OURS,
    STATES,
    SUSPENDED,
    alert_annotation,
    ended_early,
    ever,
    finished,
    jobs,
    namespace_variable,
    now,
    run_variable,
    state,
)

TO_RUN = {
    "title": "One run: ${__data.fields.Run}",
    "url": "/d/trainer-run?var-datasource=${datasource}&var-namespace=${__data.fields.Namespace}"
    "&var-run=${__data.fields.Run}&${__url_time_range}",
}
# How the first columns of a table of runs look.
RUN_AND_STATE = (
    override("Run", links=[TO_RUN], custom__minWidth=140),
    override(
        "State",
        mappings=value_names(STATES),
        custom__cellOptions={"type": "color-background", "mode": "basic"},
        custom__width=105,
    ),
)


def runs() -> Json:
    """Return the board that one opens first."""
    return board(
        "trainer-runs",
        "Training / Runs",
        "All runs of the time range: their state, how far and how well they are, and the alerts that fire.",
        variables=[namespace_variable(), run_variable(many=True)],
        rows={
            "": [*_counts(), _table()],
            "Learning": [_accuracy(), _loss()],
            "Speed and resources": [_samples(), _workers(), _cores()],
            "Alerts": [_alerts(), _alerts_over_time()],
        },
        annotations=[alert_annotation()],
        since="now-24h",
    )


def _counts() -> list[Json]:
    training = f"{now('progress_ratio', MANY)} < 1"
    waiting = f"{jobs(f'{COMING}|{SUSPENDED}', MANY)} unless {now('progress_ratio', MANY)}"
    return [
        stat(
            "Training",
            "Runs that report progress now.",
            "none",
            query(f"count({training}) or vector(0)"),
            limits=thresholds("text", (1, "blue")),
        ),
        stat(
            "Waiting",
            "RayJobs that are not finished and whose run does not report yet, or not any more: in a queue, waiting for "
            "nodes, starting, between two tries, suspended.",
            "none",
            query(f"count({waiting}) or vector(0)"),
            limits=thresholds("text", (1, "purple")),
        ),
        stat(
            "Finished",
            "Runs of the time range that did all their steps.",
            "none",
            query(f"count({finished(MANY)}) or vector(0)", now=True),
            limits=thresholds("text", (1, "green")),
        ),
        stat(
            "Failed or stopped",
            "Runs of the time range that ended before their last step, and RayJobs that failed before their run began.",
            "none",
            query(
                f"count(({ended_early(MANY)} or {jobs(FAILED, MANY, past=True)}) unless {finished(MANY)} "
                f"unless {now('progress_ratio', MANY)} unless {jobs(COMING, MANY)}) or vector(0)",
                now=True,
            ),
            limits=thresholds("text", (1, "red")),
        ),
        stat(
            "Workers now",
            "Training workers of all runs now.",
            "none",
            query(f"sum({now('workers', MANY)}) or vector(0)"),
        ),
        stat(
            "Samples/s now",
            "Training samples per second, all runs together.",
            "short",
            query(f"sum({now('samples_per_second', MANY)}) or vector(0)"),
            decimals=1,
        ),
        stat(
            "Cost per hour",
            "What the pods of all runs cost now, by currency. Empty where the values of helm/training set no prices.",
            "none",
            query(f"sum by (currency) ({now('price_per_hour', MANY, 'currency')})", "{{currency}}"),
            decimals=2,
            named=True,
            no_value="no prices",
        ),
        stat(
            "Alerts now",
            "Alerts of training, Ray and KubeRay that fire now.",
            "none",
            query(f'count(ALERTS{{alertstate="firing", {OURS}}}) or vector(0)'),
            limits=thresholds("green", (1, "red")),
        ),
    ]


def _table() -> Json:
    def column(metric: str) -> Json:
        return query(ever(metric, MANY), table=True)

    return table(
        "Runs",
        "Each run of the time range, with its last values. A run's name leads to its board. Time to go and cost are "
        "empty where they do not apply.",
        {
            "Run": "run",
            "State": query(state(MANY), table=True),
            "Progress": column("progress_ratio"),
            "To go": query(f"{now('eta_seconds', MANY)} and ({now('progress_ratio', MANY)} < 1)", table=True),
            "Accuracy": column("test_accuracy"),
            "Test loss": column("test_loss"),
            "Samples/s": column("samples_per_second"),
            "Workers": column("workers"),
            "Attempt": column("attempt"),
            "Goodput": column("goodput_ratio"),
            "Cost": query(ever("cost", MANY, "currency"), table=True),
            "Currency": "currency",
            "Recipe": "recipe",
            "Device": "device",
            "Began": query(f"{ever('start_timestamp_seconds', MANY)} * 1000", table=True),
            "Namespace": "namespace",
        },
        more=[query(ever("info", MANY, "recipe", "device"), table=True)],
        size=(24, 9),
        looks=[
            *RUN_AND_STATE,
            override(
                "Progress",
                unit="percentunit",
                min=0,
                max=1,
                decimals=0,
                color=fixed("blue"),
                custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                custom__width=140,
            ),
            override("To go", unit="dthms", custom__width=85),
            override("Accuracy", unit="percentunit", decimals=2, custom__width=85),
            override("Test loss", decimals=3, custom__width=85),
            override("Samples/s", unit="short", decimals=1, custom__width=90),
            override("Workers", custom__width=75),
            override("Attempt", custom__width=75),
            override(
                "Goodput",
                unit="percentunit",
                decimals=0,
                thresholds=thresholds("red", (0.5, "orange"), (0.8, "green")),
                custom__cellOptions={"type": "color-text"},
                custom__width=85,
            ),
            override("Cost", decimals=2, custom__width=70),
            override("Currency", custom__width=80),
            override("Recipe", custom__width=90),
            override("Device", custom__width=70),
            override("Began", unit="dateTimeAsIso", custom__width=155),
            override("Namespace", custom__width=105),
        ],
        sort=("Began", True),
        no_value="No run in this time range",
    )


def _accuracy() -> Json:
    return time_series(
        "Test accuracy",
        "Share of the test set that is classified correctly, after each epoch.",
        "percentunit",
        query(now("test_accuracy", MANY), "{{run}}"),
        size=(12, 9),
        zero=False,
        steps=True,
    )


def _loss() -> Json:
    return time_series(
        "Train loss",
        "Mean cross entropy of the samples since the last report, on a logarithmic axis.",
        "none",
        query(now("train_loss", MANY), "{{run}}"),
        size=(12, 9),
        decimals=2,
        log=True,
    )


def _samples() -> Json:
    return time_series(
        "Samples per second",
        "Training samples per second of each run, over all its workers.",
        "short",
        query(now("samples_per_second", MANY), "{{run}}"),
        size=(8, 8),
    )


def _workers() -> Json:
    return time_series(
        "Workers",
        "Training workers of each run.",
        "none",
        query(now("workers", MANY), "{{run}}"),
        size=(8, 8),
        stack=True,
        steps=True,
        count=True,
    )


def _cores() -> Json:
    used = 'ray_resources{namespace=~"$namespace", Name=~"CPU|GPU", State="USED"}'
    return time_series(
        "CPUs and GPUs in use",
        "CPUs and GPUs that Ray has given to tasks and workers, in all Ray clusters of the chosen namespaces.",
        "none",
        query(f"sum by (Name) ({used})", "{{Name}}"),
        size=(8, 8),
        steps=True,
        count=True,
    )


def _alerts() -> Json:
    return table(
        "Alerts that fire now",
        "Alerts of training, Ray and KubeRay; docs/runbook.md says for each what it means and what to do.",
        {
            "Alert": "alertname",
            "Severity": "severity",
            "Run": "run",
            "Namespace": "namespace",
            "For": query(
                f"time() - max by (alertname, severity, namespace, run) (ALERTS_FOR_STATE{{{OURS}}} "
                f'and on (alertname, severity, namespace, run) ALERTS{{alertstate="firing"}})',
                table=True,
            ),
        },
        size=(12, 7),
        looks=[
            override("Run", links=[TO_RUN]),
            override("For", unit="dthms"),
            override(
                "Severity",
                mappings=[
                    {
                        "type": "value",
                        "options": {
                            "critical": {"color": "red", "index": 0},
                            "warning": {"color": "orange", "index": 1},
                            "info": {"color": "blue", "index": 2},
                        },
                    }
                ],
                custom__cellOptions={"type": "color-text"},
            ),
        ],
        sort=("Severity", False),
        no_value="No alert fires",
    )


def _alerts_over_time() -> Json:
    return time_series(
        "Alerts over time",
        "How many alerts of each name fired when.",
        "none",
        query(f'count by (alertname) (ALERTS{{alertstate="firing", {OURS}}})', "{{alertname}}"),
        size=(12, 7),
        stack=True,
        steps=True,
        count=True,
        no_value="No alert fired in this time range",
    )
