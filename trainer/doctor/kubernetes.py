"""A Kubernetes cluster before a run: API server, rights, chart, job templates, then a pod of each worker group."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from trainer import resolve
from trainer.cluster import diagnose, rayjob, submit
from trainer.cluster.api import KubeClient, KubeObject
from trainer.cluster.follow import RESULT_COMES_S, Watch
from trainer.cluster.outcome import Outcome
from trainer.config import Config
from trainer.doctor import job_template, machine
from trainer.doctor.check import Check, State, failed, good, worst
from trainer.errors import ExitCode, TrainerError
from trainer.storage.schema import Point

READY_WITHIN_S = 300  # the pods of the doctor's own Ray cluster
VALUES = "in the values of helm/training"


def checks(kube: KubeClient, log: Callable[[str], None]) -> Iterator[Check]:
    """Check what can be seen of a cluster from here, and then from a pod of each group; `log` gets a line per step.

    Raises:
        LostConnectionError: the API server is unreachable.
    """
    missing = submit.missing_rights(kube)
    yield good("cluster", "API server", f"{kube.context} answers, namespace {kube.namespace}")
    yield machine.check_clock("cluster", kube.clock_ahead_s, "this machine's")
    yield check_rights(missing)
    try:
        release, templates = kube.job_templates()
        config = resolve.load(resolve.DEFAULT_RECIPE, base=kube.train_settings(release))
    except TrainerError as error:
        yield failed("cluster", "chart", error)
        return
    yield good("cluster", "chart", f"release {release}")
    of_templates = list(_of_templates(kube, templates, config))
    yield from of_templates
    if missing or worst(of_templates):
        yield Check("pods", "start", State.WARNING, "skipped", "correct what is wrong above first")
    else:
        yield from _of_pods(kube, rayjob.load(templates[rayjob.TEMPLATES["own"]]), log)


def check_rights(missing: list[str]) -> Check:
    """Return the check of this user's rights, by those that are missing."""
    if not missing:
        return good("cluster", "rights", "all that submit needs")
    fix = f"ask the cluster's administrator to add you to access.subjects {VALUES}"
    return Check("cluster", "rights", State.BAD, f"you may not {', '.join(missing)}", fix, ExitCode.CLUSTER)


def _of_templates(kube: KubeClient, templates: dict[str, str], config: Config) -> Iterator[Check]:
    clusters = {key: cluster for cluster, key in rayjob.TEMPLATES.items()}
    for key, text in templates.items():
        if key not in clusters:
            continue
        job = rayjob.load(text)
        for check in job_template.lint(job):
            yield Check(f"{check.where} {key}", check.what, check.state, check.found, check.fix, check.code)
        try:
            rayjob.build(templates, clusters[key], "doctor", resolve.DEFAULT_RECIPE, config)
            job["metadata"]["name"] = visit_name()
            kube.create_rayjob(job, dry_run=True)
            yield good(f"job template {key}", "admission", "KubeRay's CRD and the cluster accept it")
        except TrainerError as error:
            yield failed(f"job template {key}", "admission", error)


class _Checks:
    """A display that collects the checks in a driver's log, and passes on what the follower says."""

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self.found: list[Check] = []

    def event(self, event: Mapping[str, Any]) -> None:
        """Keep a check; pass on what the follower says."""
        if event["event"] == "check":
            with suppress(ValueError):  # something else that a pod printed
                self.found.append(Check.from_dict(event))
        elif event["event"] == "cluster":
            self._log(str(event["message"]))

    def point(self, point: Point) -> None:
        """Do nothing: the doctor trains nothing."""

    def close(self) -> None:
        """Do nothing."""


def _of_pods(kube: KubeClient, template: KubeObject, log: Callable[[str], None]) -> Iterator[Check]:
    job, skipped = visit(template, kube.nodes())
    yield from skipped
    log(f"Starting a Ray cluster with a pod of each group, as RayJob {job['metadata']['name']}.")
    created = kube.create_rayjob(job)
    display = _Checks(log)
    watch = Watch(kube, created, Config(), display)
    try:
        ended = watch.until_end()
        until = time.monotonic() + RESULT_COMES_S
        while ended.status != "pending" and watch.result is None and time.monotonic() < until:
            time.sleep(1.0)  # the RayJob's failure may be known before the end of its log
            watch.poll()
    finally:
        submit.remove(kube, created)
    yield from display.found or [not_started(ended)]


def not_started(ended: Outcome) -> Check:
    """Return the check of a visit that ended without any check from its pods."""
    code = ended.exit_code or ExitCode.CLUSTER
    return Check("pods", "start", State.BAD, ended.problem, ended.fix or "read its log: trainer logs", code)


def visit(template: KubeObject, nodes: list[KubeObject] | None) -> tuple[KubeObject, list[Check]]:
    """Return the RayJob that runs the checks in a pod of each group, and a check for each group that no node can hold.

    `nodes` is None where the user may not list them: groups with devices are then skipped.
    """
    job = copy.deepcopy(template)
    job["metadata"]["name"] = visit_name()
    job["metadata"]["labels"]["app.kubernetes.io/component"] = "doctor"
    job["spec"]["entrypoint"] = "python -m trainer doctor --nodes --json"
    job["spec"]["backoffLimit"] = 0
    job["spec"]["ttlSecondsAfterFinished"] = 0
    job["spec"]["preRunningDeadlineSeconds"] = READY_WITHIN_S
    skipped = []
    for group in job["spec"]["rayClusterSpec"].get("workerGroupSpecs", []):
        limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
        device = next((resource for resource in limits if "/" in resource), None)
        fits = device is None or bool(diagnose.nodes_with(device, nodes))
        group["replicas"] = max(group.get("minReplicas", 0), int(fits))
        if not fits:
            found = f"skipped: no node offers {device}"
            skipped.append(Check(group["groupName"], "pod", State.WARNING, found, "run the doctor again when one does"))
    return job, skipped


def visit_name() -> str:
    """Return a name for the doctor's RayJob that no run has."""
    return f"doctor-{secrets.token_hex(2)}"
