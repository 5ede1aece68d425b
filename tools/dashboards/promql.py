"""The expressions, variables and annotations that several boards share.

A run outlives its Ray clusters, and after the loss of a head two pods have series of it for a moment: everything about
a run is a maximum by namespace and run. What ended has no value any more, so tables look back over the time range.
"""

from __future__ import annotations

from collections.abc import Sequence

from tools.dashboards.grafana import Json, annotation, query_variable

MANY = 'namespace=~"$namespace", run=~"$run"'  # where several runs may be chosen
ONE = 'namespace=~"$namespace", run="$run"'
CLUSTER = 'namespace=~"$namespace", ray_io_cluster=~"$cluster"'
RUN = "namespace, run"
OURS = 'alertname=~"(Training|Ray|KubeRay).*"'

# What a RayJob says of itself before it has ended; "" is KubeRay's word for new.
COMING = "|Initializing|Waiting|Running|Retrying"
SUSPENDED = "Suspending|Suspended"
FAILED = "Failed|ValidationFailed"

STATES = {
    0: ("starting", "purple"),
    1: ("training", "blue"),
    2: ("finished", "green"),
    3: ("failed", "red"),
    4: ("stopped early", "orange"),
    5: ("suspended", "yellow"),
}

# What the time of a run goes into: its name and color, the same on all boards.
PARTS = {
    "productive": ("productive", "green"),
    "redone": ("redone", "red"),
    "recovery": ("recovery", "semi-dark-red"),
    "checkpoint_stall": ("checkpoints", "yellow"),
    "evaluation": ("evaluation", "blue"),
    "start_up_pods": ("start: pods", "super-light-purple"),
    "start_up_image": ("start: image", "light-purple"),
    "start_up_ray": ("start: Ray", "purple"),
    "start_up_imports": ("start: imports", "semi-dark-purple"),
    "start_up_data": ("start: data", "dark-purple"),
    "shutdown": ("shutdown", "light-orange"),
    "other": ("other", "#8e8e8e"),
}


def now(metric: str, runs: str, *labels: str, by: str = RUN) -> str:
    """Return each run's value: over time, or at the end of the range for the runs that have one then."""
    return f"max by ({', '.join([by, *labels])}) (ray_trainer_{metric}{{{runs}}})"


def ever(metric: str, runs: str, *labels: str, by: str = RUN) -> str:
    """Return the last value in the time range of each run, also of those that have ended."""
    return f"max by ({', '.join([by, *labels])}) (last_over_time(ray_trainer_{metric}{{{runs}}}[$__range]))"


def rise(metric: str, runs: str, window: str) -> str:
    """Return how much a number that only grows has grown in the window, or since the run began if that is later."""
    before = f"min by ({RUN}) (min_over_time(ray_trainer_{metric}{{{runs}}}[{window}]))"
    return f"({now(metric, runs)} - {before})"


def finished(runs: str) -> str:
    """Return the runs that did all their steps."""
    return f"({ever('progress_ratio', runs)} >= 1)"


def ended_early(runs: str) -> str:
    """Return the runs that neither did all their steps nor train, nor have a RayJob that will go on."""
    unfinished = f"{ever('progress_ratio', runs)} < 1"
    return f"({unfinished} unless {now('progress_ratio', runs)} unless {jobs(COMING, runs)})"


def jobs(statuses: str, runs: str, *, past: bool = False) -> str:
    """Return the RayJobs with one of these statuses, now or in the time range, by the run of their name."""
    selector = runs.replace("run=", "name=")
    series = f'kuberay_job_deployment_status{{{selector}, deployment_status=~"{statuses}"}}'
    if past:
        series = f"last_over_time({series}[$__range])"
    return f'max by ({RUN}) (label_replace({series}, "run", "$1", "name", "(.+)"))'


def state(runs: str) -> str:
    """Return the number of the first of STATES that is true of a run."""
    return f"""
        ({finished(runs)} * 0 + 2)
        or ({now("progress_ratio", runs)} * 0 + 1)
        or ({jobs(COMING, runs)} * 0)
        or ({jobs(SUSPENDED, runs)} * 0 + 5)
        or ({jobs(FAILED, runs, past=True)} * 0 + 3)
        or ({ever("progress_ratio", runs)} * 0 + 4)"""


def namespace_variable() -> Json:
    """Return the choice of namespaces: those with runs or RayJobs in the time range."""
    seen = "last_over_time(ray_trainer_step[$__range]) or last_over_time(kuberay_job_info[$__range])"
    return query_variable(
        "namespace", "Namespace", "Namespaces with runs in the time range.", f"count by (namespace) ({seen})", many=True
    )


def run_variable(*, many: bool) -> Json:
    """Return the choice of runs of the time range, the newest first."""
    began = 'last_over_time(ray_trainer_start_timestamp_seconds{namespace=~"$namespace"}[$__range])'
    return query_variable(
        "run",
        "Run",
        "Runs of the time range, the newest first; also those that have ended.",
        f"sort_desc(max by (run) ({began}))",
        many=many,
    )


def cluster_variable() -> Json:
    """Return the choice of the Ray clusters that a run has had: one for each try of its RayJob."""
    seen = f"last_over_time(ray_trainer_step{{{ONE}}}[$__range])"
    variable = query_variable(
        "cluster",
        "Ray cluster",
        "Ray clusters that the run has had in the time range: one for each try of its RayJob.",
        f"count by (ray_io_cluster) ({seen})",
        many=True,
    )
    del variable["allValue"]  # all of this run, not all there are
    return {**variable, "regex": '/ray_io_cluster="([^"]+)"/'}


def run_annotations() -> Sequence[Json]:
    """Return the marks of what happened to a run."""
    return [
        _mark("Attempts", "blue", "attempt", "new attempt", "Workers were started again."),
        _mark("Failures", "red", "worker_failures", "worker failure", "A worker was lost or failed."),
        _mark("Preemptions", "orange", "preemptions", "preemption", "A node was taken away."),
        _mark("Roll-backs", "purple", "rollbacks", "roll-back", "The loss was not finite."),
        alert_annotation('run="$run"', shown=True),
    ]


def alert_annotation(about: str = OURS, *, shown: bool = False) -> Json:
    """Return the marks of the moments in which alerts began to fire."""
    firing = f'ALERTS{{alertstate="firing", {about}}}'
    words = "{{severity}} {{namespace}} {{run}}"
    return annotation("Alerts", "yellow", f"{firing} unless {firing} offset 1m", "{{alertname}}", words, shown=shown)


def _mark(name: str, color: str, metric: str, title: str, words: str) -> Json:
    # Compared with what it was a minute ago, or when it was last seen: an increase over the loss of a head is none of
    # any one series.
    before = f"max by ({RUN}) (last_over_time(ray_trainer_{metric}{{{ONE}}}[1h] offset 1m))"
    return annotation(name, color, f"{now(metric, ONE)} > {before}", title, words)
