"""Resources: what the pods of one run use of what they have, and what they wait for."""

from __future__ import annotations

from tools.dashboards.grafana import Json, bar_gauge, board, fixed, override, query, stat, thresholds, time_series
from tools.dashboards.promql import CLUSTER, cluster_variable, namespace_variable, run_annotations, run_variable

# Containers of the run's Ray pods; KubeRay's pods begin with the name of their Ray cluster.
CONTAINERS = 'namespace=~"$namespace", pod=~"$cluster-.+", container=~"ray-head|ray-worker"'
# Pods without the cluster in their name: head-x7k2p, cpu-worker-9q4tz.
SHORT = (r".+-((?:head|[a-z0-9]+-worker)-[a-z0-9]{5})$", "$1")
NEARLY_FULL = thresholds("green", (0.8, "orange"), (0.9, "red"))
NO_GPU = "No GPU in this run"


def resources() -> Json:
    """Return the board of a run's pods."""
    return board(
        "trainer-resources",
        "Training / Resources",
        "CPU, memory, disk, network and GPUs of one run's pods, against what they have; kills and what Ray waits for.",
        variables=[namespace_variable(), run_variable(many=False), cluster_variable()],
        rows={
            "": _numbers(),
            "CPU": [_cores(), _cpu_share(), _throttled()],
            "Memory": [_memory(), _memory_share(), _components()],
            "Ray": [_unschedulable(), _object_store(), _kills()],
            "Network and disk": [_received(), _sent(), _disk(), _disk_speed()],
        },
        closed={"GPUs": _gpus()},
        annotations=run_annotations(),
        since="now-1h",
    )


def _pods(metric: str, more: str = "") -> str:
    return f"max by (namespace, pod) ({metric}{{{CLUSTER}{more}}})"


def _numbers() -> list[Json]:
    memory = f"max by (pod) (ray_node_mem_used{{{CLUSTER}}}) / max by (pod) (ray_node_mem_total{{{CLUSTER}}})"
    disk = f"ray_node_disk_free{{{CLUSTER}}} / (ray_node_disk_free{{{CLUSTER}}} + ray_node_disk_usage{{{CLUSTER}}})"
    return [
        stat(
            "Pods",
            "Ray nodes of the run: its head and its workers.",
            "none",
            query(f"count({_pods('ray_node_cpu_count')})"),
        ),
        stat(
            "CPUs in use",
            "Cores that the run's containers use, all together.",
            "none",
            query(f"sum(rate(container_cpu_usage_seconds_total{{{CONTAINERS}}}[$__rate_interval]))"),
            decimals=2,
            color=fixed("blue"),
        ),
        stat(
            "Fullest memory",
            "The largest share of its memory limit that a pod uses. At the limit the kernel kills it.",
            "percentunit",
            query(f"max({memory})"),
            decimals=0,
            limits=NEARLY_FULL,
        ),
        stat(
            "Least disk",
            "The smallest share of free disk on a pod's node.",
            "percentunit",
            query(f"min({disk})"),
            decimals=0,
            limits=thresholds("red", (0.1, "orange"), (0.2, "green")),
        ),
        stat(
            "Kills for memory",
            "Workers that Ray's memory monitor killed, since their Ray cluster began.",
            "none",
            query(_events("ray_memory_manager_worker_eviction_total")),
            limits=thresholds("green", (1, "red")),
        ),
        stat(
            "Lost processes",
            "Worker processes that ended without being asked to, since their Ray cluster began.",
            "none",
            query(_events("ray_node_manager_unexpected_worker_failure_total")),
            limits=thresholds("green", (1, "orange")),
        ),
        stat(
            "Cannot be placed",
            "Tasks and workers that Ray cannot place now.",
            "none",
            query(
                f"sum(ray_scheduler_unscheduleable_tasks{{{CLUSTER}}}) or (0 * sum(ray_node_cpu_count{{{CLUSTER}}}))"
            ),
            limits=thresholds("green", (1, "orange")),
        ),
        stat(
            "GPUs in use",
            "Mean utilization of the run's GPUs.",
            "percent",
            query(f"avg(ray_node_gpus_utilization{{{CLUSTER}}})"),
            decimals=0,
            no_value="no GPU",
        ),
    ]


def _events(metric: str) -> str:
    # Ray exports these with their first event. The value itself is shown, since an increase from nothing is none.
    return f"sum({metric}{{{CLUSTER}}}) or (0 * sum(ray_node_cpu_count{{{CLUSTER}}}))"


def _cores() -> Json:
    used = f"rate(container_cpu_usage_seconds_total{{{CONTAINERS}}}[$__rate_interval])"
    return time_series(
        "Cores by pod",
        "CPU that each pod's container uses, in cores.",
        "none",
        query(f"sum by (namespace, pod) ({used})", "{{pod}}"),
        size=(8, 8),
        rename=SHORT,
    )


def _cpu_share() -> Json:
    return time_series(
        "CPU of the limit",
        "CPU of each pod as a share of what it has, as Ray sees it.",
        "percent",
        query(_pods("ray_node_cpu_utilization"), "{{pod}}"),
        size=(8, 8),
        rename=SHORT,
    )


def _throttled() -> Json:
    def periods(kind: str) -> str:
        return f"sum by (namespace, pod) (rate(container_cpu_cfs_{kind}_total{{{CONTAINERS}}}[$__rate_interval]))"

    return time_series(
        "Throttled",
        "Share of the kernel's periods in which a pod had used up its CPU limit and had to wait.",
        "percentunit",
        query(f"{periods('throttled_periods')} / {periods('periods')}", "{{pod}}"),
        size=(8, 8),
        most=1,
        rename=SHORT,
        no_value="No pod has a CPU limit",
    )


def _memory() -> Json:
    return time_series(
        "Memory by pod",
        "Memory of each pod's container that the kernel cannot take back (the working set).",
        "bytes",
        query(f"sum by (namespace, pod) (container_memory_working_set_bytes{{{CONTAINERS}}})", "{{pod}}"),
        size=(8, 8),
        rename=SHORT,
    )


def _memory_share() -> Json:
    return time_series(
        "Memory of the limit",
        "Memory of each pod as a share of its limit. At 100 % the kernel kills; Ray kills a worker a little earlier.",
        "percentunit",
        query(f"{_pods('ray_node_mem_used')} / {_pods('ray_node_mem_total')}", "{{pod}}"),
        size=(8, 8),
        most=1,
        limits=thresholds("transparent", (0.9, "red")),
        rename=SHORT,
    )


def _components() -> Json:
    resident = f'ray_component_rss_bytes{{{CLUSTER}, endpoint="metrics"}}'
    # the titles of processes: ray::RayTrainWorker.poll while it polls, and the path of a Python. Their own label stays:
    # a process has several titles within minutes, and no two series may have the same labels
    for pattern in ("(.+)", "(ray::[^.:(]+).*", ".*/(python).*"):
        resident = f'label_replace({resident}, "process", "$1", "Component", "{pattern}")'
    return time_series(
        "Memory by part of Ray",
        "Resident memory by what the process is: workers (`ray::…`), the driver (`python`), raylet, GCS, agent. Shared "
        "pages count in each.",
        "bytes",
        query(f"topk(8, sum by (process) ({resident}))", "{{process}}"),
        size=(8, 8),
        stack=True,
        overrides=[override("ray::RayTrainWorker", color=fixed("blue")), override("ray::IDLE", color=fixed("#8e8e8e"))],
    )


def _unschedulable() -> Json:
    return time_series(
        "Tasks that cannot be placed",
        "By reason: nodes are full, no node could ever have room (infeasible), or worker processes are starting. Ray "
        "Train's wait for workers shows here.",
        "none",
        query(f"sum by (Reason) (ray_scheduler_unscheduleable_tasks{{{CLUSTER}}})", "{{Reason}}"),
        size=(8, 8),
        stack=True,
        steps=True,
        count=True,
        no_value="Ray waits for nothing",
    )


def _object_store() -> Json:
    return time_series(
        "Object store",
        "Objects in Ray's shared memory, on disk, and spilled. Training here keeps its data out of it.",
        "bytes",
        query(f"sum by (Location) (ray_object_store_memory{{{CLUSTER}}})", "{{Location}}"),
        size=(8, 8),
        stack=True,
        overrides=[
            override("MMAP_SHM", displayName="memory", color=fixed("blue")),
            override("MMAP_DISK", displayName="disk", color=fixed("orange")),
            override("SPILLED", displayName="spilled", color=fixed("red")),
            override("WORKER_HEAP", displayName="workers' own", color=fixed("purple")),
        ],
    )


def _kills() -> Json:
    return time_series(
        "Kills and lost processes",
        "Workers that Ray's memory monitor killed, and worker processes that ended without being asked to, since their "
        "Ray cluster began.",
        "none",
        query(_events("ray_memory_manager_worker_eviction_total"), "killed for memory"),
        query(_events("ray_node_manager_unexpected_worker_failure_total"), "lost"),
        size=(8, 8),
        steps=True,
        count=True,
        overrides=[override("killed for memory", color=fixed("red")), override("lost", color=fixed("orange"))],
    )


def _received() -> Json:
    return time_series(
        "Received",
        "Network traffic into each pod.",
        "Bps",
        query(_pods("ray_node_network_receive_speed"), "{{pod}}"),
        size=(6, 8),
        rename=SHORT,
    )


def _sent() -> Json:
    return time_series(
        "Sent",
        "Network traffic out of each pod.",
        "Bps",
        query(_pods("ray_node_network_send_speed"), "{{pod}}"),
        size=(6, 8),
        rename=SHORT,
    )


def _disk() -> Json:
    return time_series(
        "Disk in use",
        "Disk in use below each pod's /tmp: that of its node, which others share.",
        "percent",
        query(_pods("ray_node_disk_utilization_percentage"), "{{pod}}"),
        size=(6, 8),
        most=100,
        limits=thresholds("transparent", (90, "red")),
        rename=SHORT,
    )


def _disk_speed() -> Json:
    return time_series(
        "Disk written and read",
        "Bytes per second that the run's nodes write and read.",
        "Bps",
        query(f"sum({_pods('ray_node_disk_io_write_speed')})", "written"),
        query(f"sum({_pods('ray_node_disk_io_read_speed')})", "read"),
        size=(6, 8),
    )


def _gpus() -> list[Json]:
    gpu = "{{pod}} {{GpuIndex}}"
    used = f"ray_node_gram_used{{{CLUSTER}}}"
    return [
        time_series(
            "GPU utilization",
            "Share of the time in which a kernel ran on the GPU.",
            "percent",
            query(f"max by (pod, GpuIndex) (ray_node_gpus_utilization{{{CLUSTER}}})", gpu),
            size=(8, 8),
            most=100,
            no_value=NO_GPU,
        ),
        time_series(
            "GPU memory",
            "Share of the GPU's memory that is in use.",
            "percentunit",
            query(
                f"max by (pod, GpuIndex) ({used} / ({used} + ray_node_gram_available{{{CLUSTER}}}))",
                gpu,
            ),
            size=(8, 8),
            most=1,
            limits=thresholds("transparent", (0.95, "red")),
            no_value=NO_GPU,
        ),
        time_series(
            "GPU power",
            "Electrical power. A GPU that is busy and draws little waits for memory or for others.",
            "watt",
            query(f"max by (pod, GpuIndex) (ray_node_gpu_power_milliwatts{{{CLUSTER}}}) / 1000", gpu),
            size=(4, 8),
            no_value=NO_GPU,
        ),
        bar_gauge(
            "GPU temperature",
            "Temperature of each GPU now.",
            "celsius",
            query(f"max by (pod, GpuIndex) (ray_node_gpu_temperature_celsius{{{CLUSTER}}})", gpu, now=True),
            size=(4, 8),
            most=100,
            limits=thresholds("green", (80, "orange"), (90, "red")),
            no_value=NO_GPU,
        ),
    ]
