"""The chart's job template against KubeRay's rules: what it would refuse or ignore, or what would cost money. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.cluster.api import KubeObject
from trainer.cluster.rayjob import KUEUE_QUEUE
from trainer.doctor.check import Check, State, good
from trainer.doctor.machine import RAY_VERSION
from trainer.errors import ExitCode

WHERE = "job template"
DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
DRAIN_DEFAULT_S = 30.0  # Ray's
GRACE_DEFAULT_S = 30.0  # Kubernetes'
MAX_NAME_LENGTH = 47


def lint(job: KubeObject) -> list[Check]:
    """Return a check for each rule that a RayJob breaks; one good one if it breaks none."""
    spec = job["spec"]
    broken = [*_of_job(job, spec)]
    if "rayClusterSpec" in spec:
        broken += _of_cluster(spec["rayClusterSpec"], _has_queue(job))
        for group in spec["rayClusterSpec"].get("workerGroupSpecs", []):
            broken += _of_group(group)
    return broken or [good(WHERE, "KubeRay rules", "ok")]


def _bad(what: str, found: str, fix: str) -> Check:
    return Check(WHERE, what, State.BAD, found, fix, ExitCode.CLUSTER)


def _doubtful(what: str, found: str, fix: str) -> Check:
    return Check(WHERE, what, State.WARNING, found, fix)


def _has_queue(job: KubeObject) -> bool:
    return KUEUE_QUEUE in (job["metadata"].get("labels") or {})


def _of_job(job: KubeObject, spec: KubeObject) -> Iterator[Check]:
    name = job["metadata"]["name"]
    shuts_down = spec.get("shutdownAfterJobFinishes")
    mode = spec.get("submissionMode", "K8sJobMode")
    if len(name) > MAX_NAME_LENGTH:
        yield _bad("name", f"{len(name)} characters", f"use at most {MAX_NAME_LENGTH}")
    if "rayClusterSpec" in spec and not shuts_down and "deletionStrategy" not in spec:
        fix = "set it: the Ray cluster, with its GPUs, would outlive the run"
        yield _bad("clean-up", "shutdownAfterJobFinishes is not set", fix)
    if shuts_down and "deletionStrategy" in spec:
        fix = "remove one of them: KubeRay refuses both together"
        yield _bad("deletion rules", "deletionStrategy beside shutdownAfterJobFinishes", fix)
    if _has_queue(job) and not shuts_down:
        yield _bad("Kueue", "shutdownAfterJobFinishes is not set", "set it: Kueue needs it")
    if "clusterSelector" in spec and (spec.get("backoffLimit") or spec.get("suspend")):
        yield _bad("retries", "backoffLimit or suspend beside clusterSelector", "remove them: KubeRay refuses the job")
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        fix = "remove submitterPodTemplate and submitterConfig"
        yield _bad("submission", "SidecarMode with a template for the submitter", fix)
    if mode == "K8sJobMode" and "backoffLimit" not in spec.get("submitterConfig", {}):
        fix = "set it: KubeRay's default of 2 is used up within half a minute"
        yield _doubtful("retries", "submitterConfig.backoffLimit is not set", fix)
    if "preRunningDeadlineSeconds" not in spec:
        fix = "set it: a run whose image cannot be pulled would wait without end"
        yield _doubtful("deadline", "preRunningDeadlineSeconds is not set", fix)


def _of_cluster(cluster: KubeObject, has_queue: bool) -> Iterator[Check]:
    autoscales = cluster.get("enableInTreeAutoscaling")
    version = cluster.get("autoscalerOptions", {}).get("version")
    if autoscales and version != "v2":
        yield _bad("autoscaler", f"version {version or 'is not set'}", "write version: v2: KubeRay assumes v1")
    if autoscales and has_queue:
        fix = "set enableInTreeAutoscaling: false: Kueue admits clusters of a fixed size"
        yield _bad("Kueue", "Ray's autoscaler is on", fix)
    if cluster.get("authOptions", {}).get("mode") != "token":
        fix = "set authOptions.mode: token: anybody who reaches a port of Ray can run code"
        yield _bad("authentication", "no token is required", fix)
    images = {container["image"] for pod in _pods(cluster) for container in pod["containers"]}
    if len(images) > 1:
        fix = "use one: Ray needs the same version everywhere"
        yield _bad("image", f"several: {', '.join(sorted(images))}", fix)
    if RAY_VERSION and cluster.get("rayVersion") != RAY_VERSION:
        found = f"{cluster.get('rayVersion')}, but this trainer has Ray {RAY_VERSION}"
        yield _bad("rayVersion", found, f"set rayVersion: {RAY_VERSION}")
    if any("serviceAccountName" not in pod for pod in _pods(cluster)):
        fix = "set it on head and workers: the storage identifies pods by it"
        yield _bad("identity", "a pod without serviceAccountName", fix)


def _pods(cluster: KubeObject) -> list[KubeObject]:
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


def _of_group(group: KubeObject) -> Iterator[Check]:
    what = f"group {group['groupName']}"
    pod = group["template"]["spec"]
    container = pod["containers"][0]
    fewest = group.get("minReplicas", 0)
    most = group.get("maxReplicas")
    replicas = group.get("replicas", fewest)
    if most is None:
        yield _bad(what, "no maxReplicas", "set it: KubeRay's default is two billion")
    elif not fewest <= replicas <= most:
        yield _bad(what, f"replicas {replicas} is not in {fewest} to {most}", "correct it: KubeRay refuses it")
    gpu = next((key for key in container.get("resources", {}).get("limits", {}) if key.endswith("/gpu")), None)
    declared = "GPU" in group.get("resources", {}) or "num-gpus" in group.get("rayStartParams", {})
    if gpu and not declared:
        fix = "set resources.GPU: the group could not scale up from zero"
        yield _bad(what, f"{gpu} is not declared to Ray", fix)
    if gpu and fewest:
        fix = "set 0: no run starts before these pods are ready, and they are billed all the time"
        yield _doubtful(what, f"minReplicas {fewest} with GPUs", fix)
    drain_s = _drain_s(container)
    grace_s = float(pod.get("terminationGracePeriodSeconds", GRACE_DEFAULT_S))
    if grace_s <= drain_s:
        fix = "make the grace period longer: SIGKILL comes before a worker has saved"
        yield _bad(what, f"terminationGracePeriodSeconds {grace_s:.0f}, but Ray drains {drain_s:.0f} s", fix)


def _drain_s(container: KubeObject) -> float:
    values = [variable["value"] for variable in container.get("env", []) if variable["name"] == DRAIN_VARIABLE]
    return float(values[0]) if values else DRAIN_DEFAULT_S
