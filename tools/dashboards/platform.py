"""Platform: whether KubeRay, the autoscalers, the queue and Prometheus itself do their part."""

from __future__ import annotations

from tools.dashboards.grafana import Json, board, fixed, override, query, stat, table, thresholds, time_series
from tools.dashboards.promql import FAILED, alert_annotation, namespace_variable

HERE = 'namespace=~"$namespace"'
KUBERAY = 'controller=~"ray.*"'
# What a RayJob says of itself, from good to bad.
STATUSES = {
    "New": ("new", "super-light-purple"),
    "Initializing": ("initializing", "purple"),
    "Waiting": ("waiting", "light-purple"),
    "Running": ("running", "blue"),
    "Complete": ("complete", "green"),
    "Retrying": ("retrying", "orange"),
    "Suspending": ("suspending", "light-yellow"),
    "Suspended": ("suspended", "yellow"),
    "Failed": ("failed", "red"),
    "ValidationFailed": ("refused", "dark-red"),
}


def platform() -> Json:
    """Return the board for platform engineers."""
    return board(
        "trainer-platform",
        "Training / Platform",
        "KubeRay, Ray's autoscalers, the queue, and whether Prometheus sees all of it.",
        variables=[namespace_variable()],
        rows={
            "": _numbers(),
            "RayJobs and Ray clusters": [_statuses(), _provisioning(), _jobs()],
            "Autoscalers of Ray": [_nodes(), _node_failures(), _nodes_started()],
            "KubeRay operator": [_reconciles(), _errors(), _reconcile_time(), _queue()],
            "Prometheus": [_targets(), _samples(), _scrape_time()],
        },
        closed={"Kueue": _kueue()},
        annotations=[alert_annotation()],
        since="now-6h",
    )


def _numbers() -> list[Json]:
    up = f'up{{{HERE}, ray_io_cluster!=""}}'
    pending = f"sum(autoscaler_pending_nodes{{{HERE}}})"
    return [
        stat(
            "KubeRay",
            "Whether Prometheus sees the operator's controller of RayJobs.",
            "none",
            query(f"(count(controller_runtime_active_workers{{{KUBERAY}}}) > bool 0) or vector(0)", now=True),
            mappings=[
                {
                    "type": "value",
                    "options": {
                        "0": {"text": "not seen", "color": "red", "index": 0},
                        "1": {"text": "seen", "color": "green", "index": 1},
                    },
                }
            ],
            fill=True,
        ),
        stat(
            "RayJobs running",
            "RayJobs whose run is under way.",
            "none",
            query(f'sum(kuberay_job_deployment_status{{{HERE}, deployment_status="Running"}}) or vector(0)'),
            color=fixed("blue"),
        ),
        stat(
            "RayJobs failed",
            "RayJobs that failed and are still there.",
            "none",
            query(f'sum(kuberay_job_deployment_status{{{HERE}, deployment_status=~"{FAILED}"}}) or vector(0)'),
            limits=thresholds("text", (1, "red")),
        ),
        stat(
            "Ray clusters",
            "Ray clusters that KubeRay manages.",
            "none",
            query(f"count(kuberay_cluster_info{{{HERE}}}) or vector(0)"),
        ),
        stat(
            "Nodes pending",
            "Pods that Ray's autoscalers have asked for and that are not there yet.",
            "none",
            query(f"{pending} or vector(0)"),
            limits=thresholds("text", (1, "orange")),
        ),
        stat(
            "Reconciles that fail",
            "Share of what KubeRay's controllers did in the last hour. While jobs start and end one in five fails.",
            "percentunit",
            query(
                f"sum(increase(controller_runtime_reconcile_errors_total{{{KUBERAY}}}[1h]))"
                f" / sum(increase(controller_runtime_reconcile_total{{{KUBERAY}}}[1h]))"
            ),
            decimals=0,
            limits=thresholds("green", (0.35, "orange"), (0.5, "red")),
            no_value="not seen",
        ),
        stat(
            "Targets down",
            "Metrics ports of Ray pods that Prometheus knows and cannot read.",
            "none",
            query(f"count({up} == 0) or vector(0)"),
            limits=thresholds("green", (1, "red")),
        ),
        stat(
            "Largest scrape",
            "Samples that Prometheus keeps of one metrics port. Above 20,000 a metric has too many labels.",
            "short",
            query(f'max(scrape_samples_post_metric_relabeling{{{HERE}, ray_io_cluster!=""}})'),
            decimals=1,
            limits=thresholds("text", (20_000, "red")),
        ),
    ]


def _statuses() -> Json:
    # KubeRay's word for a new one is none
    series = f"kuberay_job_deployment_status{{{HERE}}}"
    named = f'label_replace({series}, "deployment_status", "New", "deployment_status", "")'
    return time_series(
        "RayJobs by status",
        "KubeRay's word for each RayJob that exists, also for those that have ended and were not deleted.",
        "none",
        query(f"count by (deployment_status) ({named})", "{{deployment_status}}"),
        size=(8, 9),
        stack=True,
        steps=True,
        count=True,
        overrides=[override(name, displayName=words, color=fixed(color)) for name, (words, color) in STATUSES.items()],
        no_value="No RayJob in this time range",
    )


def _provisioning() -> Json:
    return time_series(
        "Time to provision a Ray cluster",
        "From the creation of a Ray cluster to the moment when all its first pods ran: nodes, image, Ray's start.",
        "s",
        query(f"max by (name) (kuberay_cluster_provisioned_duration_seconds{{{HERE}}})", "{{name}}"),
        size=(7, 9),
        steps=True,
        no_value="No Ray cluster in this time range",
    )


def _jobs() -> Json:
    last = f"last_over_time(kuberay_job_execution_duration_seconds{{{HERE}}}[$__range])"
    return table(
        "RayJobs that ended",
        "How long each took, by how it ended. The operator forgets it when it restarts or the RayJob is deleted.",
        {
            "RayJob": "name",
            "Namespace": "namespace",
            "Ended as": "job_deployment_status",
            "Retries": "retry_count",
            "Took": query(f"max by (namespace, name, job_deployment_status, retry_count) ({last})", table=True),
        },
        size=(9, 9),
        looks=[
            override("Namespace", custom__width=95),
            override("Retries", custom__width=70),
            override("Took", unit="dthms", custom__width=80),
            override(
                "Ended as",
                mappings=[
                    {
                        "type": "value",
                        "options": {
                            "Complete": {"color": "green", "index": 0},
                            "Failed": {"color": "red", "index": 1},
                            "Retrying": {"color": "orange", "index": 2},
                        },
                    }
                ],
                custom__cellOptions={"type": "color-text"},
                custom__width=90,
            ),
        ],
        sort=("Took", True),
        no_value="No RayJob ended in this time range",
    )


def _nodes() -> Json:
    active = f"autoscaler_active_nodes{{{HERE}}}"

    def others(kind: str) -> str:
        # a kind that has no pods may have no series either
        return f"sum(autoscaler_{kind}_nodes{{{HERE}}}) or (0 * sum({active}))"

    return time_series(
        "Nodes",
        "Pods as the autoscalers of all Ray clusters count them: active ones by group, those they wait for, and those "
        "that failed recently.",
        "none",
        query(f"sum by (NodeType) ({active}) > 0", "{{NodeType}}"),
        query(others("pending"), "pending"),
        query(others("recently_failed"), "failed"),
        size=(8, 8),
        stack=True,
        steps=True,
        count=True,
        overrides=[override("pending", color=fixed("purple")), override("failed", color=fixed("red"))],
        no_value="No autoscaler runs",
    )


def _node_failures() -> Json:
    def total(name: str) -> str:
        return f"sum(autoscaler_{name}_total{{{HERE}}})"

    return time_series(
        "Failures of autoscalers",
        "Since their Ray clusters began: pods that were not created, failed launches, exceptions of the update loop.",
        "none",
        query(total("failed_create_nodes"), "pods not created"),
        query(total("node_launch_exceptions"), "failed launches"),
        query(total("update_loop_exceptions"), "exceptions"),
        size=(8, 8),
        steps=True,
        count=True,
        no_value="No autoscaler runs",
        overrides=[
            override("pods not created", color=fixed("red")),
            override("failed launches", color=fixed("orange")),
            override("exceptions", color=fixed("purple")),
        ],
    )


def _nodes_started() -> Json:
    started = f"sum(autoscaler_started_nodes_total{{{HERE}}})"
    stopped = f"sum(autoscaler_stopped_nodes_total{{{HERE}}})"
    return time_series(
        "Pods started and stopped",
        "By the autoscalers, since their Ray clusters began.",
        "none",
        query(started, "started"),
        query(stopped, "stopped"),
        size=(8, 8),
        steps=True,
        count=True,
        no_value="No autoscaler runs",
    )


def _reconciles() -> Json:
    return time_series(
        "Reconciles",
        "How often KubeRay's controllers look at an object, per second.",
        "ops",
        query(
            f"sum by (controller) (rate(controller_runtime_reconcile_total{{{KUBERAY}}}[$__rate_interval]))",
            "{{controller}}",
        ),
        size=(6, 8),
        no_value="KubeRay is not seen",
    )


def _errors() -> Json:
    return time_series(
        "Reconcile errors",
        "Reconciles that ended with an error, per second. A few at the start of a run are conflicts, tried again.",
        "ops",
        query(
            f"sum by (controller) (rate(controller_runtime_reconcile_errors_total{{{KUBERAY}}}[$__rate_interval]))",
            "{{controller}}",
        ),
        size=(6, 8),
        no_value="KubeRay is not seen",
    )


def _reconcile_time() -> Json:
    buckets = f"rate(controller_runtime_reconcile_time_seconds_bucket{{{KUBERAY}}}[$__rate_interval])"
    return time_series(
        "Time of a reconcile",
        "95 of 100 reconciles are faster than this.",
        "s",
        query(f"histogram_quantile(0.95, sum by (le, controller) ({buckets}))", "{{controller}}"),
        size=(6, 8),
        no_value="KubeRay is not seen",
    )


def _queue() -> Json:
    return time_series(
        "Work that waits for the operator",
        "Objects in the queues of KubeRay's controllers. More than a few for minutes: the operator is too slow.",
        "none",
        query('sum by (name) (workqueue_depth{name=~"ray.*"})', "{{name}}"),
        size=(6, 8),
        steps=True,
        count=True,
        no_value="KubeRay is not seen",
    )


def _targets() -> Json:
    up = f'up{{{HERE}, ray_io_cluster!=""}}'
    return time_series(
        "Metrics ports that answer",
        "Of Ray pods: `metrics` is Ray's own, `as-metrics` the autoscaler's, `dash-metrics` the dashboard's. Red: they"
        " do not answer; see NOTES of helm/monitoring.",
        "none",
        query(f"count by (endpoint) ({up} == 1)", "{{endpoint}}"),
        query(f"count({up} == 0) or (0 * count({up}))", "do not answer"),
        size=(8, 8),
        stack=True,
        steps=True,
        count=True,
        overrides=[override("do not answer", color=fixed("red"))],
        no_value="No Ray pod in this time range",
    )


def _samples() -> Json:
    return time_series(
        "Samples of each Ray cluster",
        "That Prometheus keeps of one scrape of all its pods: what a run costs Prometheus.",
        "short",
        query(
            f'sum by (ray_io_cluster) (scrape_samples_post_metric_relabeling{{{HERE}, ray_io_cluster!=""}})',
            "{{ray_io_cluster}}",
        ),
        size=(8, 8),
        no_value="No Ray pod in this time range",
    )


def _scrape_time() -> Json:
    return time_series(
        "Time of a scrape",
        "The slowest of each port's. It must stay below `scrapeTimeout` of helm/monitoring.",
        "s",
        query(f'max by (endpoint) (scrape_duration_seconds{{{HERE}, ray_io_cluster!=""}})', "{{endpoint}}"),
        size=(8, 8),
        no_value="No Ray pod in this time range",
    )


def _kueue() -> list[Json]:
    absent = "Kueue is not installed"
    return [
        time_series(
            "Workloads that wait",
            "Of each cluster queue; inadmissible ones wait for a change of quota.",
            "none",
            query("sum by (cluster_queue, status) (kueue_pending_workloads)", "{{cluster_queue}} {{status}}"),
            size=(8, 8),
            stack=True,
            steps=True,
            no_value=absent,
        ),
        time_series(
            "Wait for admission",
            "95 of 100 workloads waited less than this from creation to admission.",
            "s",
            query(
                "histogram_quantile(0.95, sum by (le, cluster_queue) "
                "(rate(kueue_admission_wait_time_seconds_bucket[$__rate_interval])))",
                "{{cluster_queue}}",
            ),
            size=(8, 8),
            no_value=absent,
        ),
        time_series(
            "Evicted workloads",
            "Since Kueue started, by reason: preempted by others, not ready in time, a failed admission check.",
            "none",
            query("sum by (cluster_queue, reason) (kueue_evicted_workloads_total)", "{{cluster_queue}} {{reason}}"),
            size=(8, 8),
            steps=True,
            no_value=absent,
        ),
    ]
