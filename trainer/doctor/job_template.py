"""The chart's job template against KubeRay's rules: what would be refused, ignored or cost money. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer.cluster.diagnose import KUEUE
from trainer.doctor.machine import RAY, Check, State, good
from trainer.errors import ExitCode

Object = dict[str, Any]

WHERE = "job template"
DRAIN, DRAIN_DEFAULT_S = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30.0
GRACE_DEFAULT_S = 30.0
LONGEST_NAME = 47


def lint(job: Object) -> list[Check]:
    """A line for each rule that a RayJob breaks; one good line if it breaks none."""
    spec = job["spec"]
    found = [*_of_job(job, spec)]
    if "rayClusterSpec" in spec:
        found += [*_of_cluster(spec["rayClusterSpec"], KUEUE in job["metadata"].get("labels", {}))]
        for group in spec["rayClusterSpec"].get("workerGroupSpecs", []):
            found += _of_group(group)
    return found or [good(WHERE, "KubeRay's rules", "kept")]


def _bad(what: str, found: str, fix: str) -> Check:
    return Check(WHERE, what, State.BAD, found, fix, ExitCode.CLUSTER)


def _doubtful(what: str, found: str, fix: str) -> Check:
    return Check(WHERE, what, State.WARNING, found, fix)


def _of_job(job: Object, spec: Object) -> Iterator[Check]:
    own = "rayClusterSpec" in spec
    if len(job["metadata"]["name"]) > LONGEST_NAME:
        yield _bad("name", f"{len(job['metadata']['name'])} characters", f"at most {LONGEST_NAME}")
    if own and not spec.get("shutdownAfterJobFinishes") and "deletionStrategy" not in spec:
        yield _bad(
            "clean-up", "shutdownAfterJobFinishes is not set", "set it: the cluster, GPUs too, would outlive the run"
        )
    if spec.get("shutdownAfterJobFinishes") and "deletionStrategy" in spec:
        yield _bad("deletion rules", "beside shutdownAfterJobFinishes", "KubeRay takes one of them: remove the other")
    if KUEUE in job["metadata"].get("labels", {}) and not spec.get("shutdownAfterJobFinishes"):
        yield _bad("Kueue", "without shutdownAfterJobFinishes", "set it: Kueue needs it")
    if "clusterSelector" in spec and (spec.get("backoffLimit") or spec.get("suspend")):
        yield _bad("retries", "backoffLimit or suspend beside clusterSelector", "remove them: KubeRay refuses the job")
    if spec.get("submissionMode") == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield _bad(
            "submission", "SidecarMode with a submitter's template", "remove submitterPodTemplate and submitterConfig"
        )
    if spec.get("submissionMode", "K8sJobMode") == "K8sJobMode" and "backoffLimit" not in spec.get(
        "submitterConfig", {}
    ):
        yield _doubtful(
            "retries", "submitterConfig.backoffLimit is not set", "set it: KubeRay's 2 are gone in half a minute"
        )
    if "preRunningDeadlineSeconds" not in spec:
        yield _doubtful(
            "deadline", "preRunningDeadlineSeconds is not set", "set it: an image that cannot be pulled waits for ever"
        )


def _of_cluster(cluster: Object, kueue: bool) -> Iterator[Check]:
    scales, options = cluster.get("enableInTreeAutoscaling"), cluster.get("autoscalerOptions", {})
    if scales and options.get("version") != "v2":
        yield _bad(
            "autoscaler",
            f"version {options.get('version', 'not written')}",
            "write version: v2: KubeRay takes it for 1",
        )
    if scales and kueue:
        yield _bad("Kueue", "with Ray's autoscaler", "set enableInTreeAutoscaling: false: Kueue admits fixed sizes")
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield _bad(
            "authentication", "no token is asked for", "set authOptions.mode: token: who reaches a port can run code"
        )
    images = {container["image"] for pod in _pods(cluster) for container in pod["containers"]}
    if len(images) > 1:
        yield _bad("image", f"several: {', '.join(sorted(images))}", "use one: Ray needs one version everywhere")
    if RAY and cluster.get("rayVersion") != RAY:
        yield _bad(
            "rayVersion", f"{cluster.get('rayVersion')}, and this trainer has Ray {RAY}", f"set rayVersion: {RAY}"
        )
    for pod in _pods(cluster):
        if "serviceAccountName" not in pod:
            yield _bad("identity", "a pod without serviceAccountName", "set it on head and workers: storage goes by it")


def _pods(cluster: Object) -> list[Object]:
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


def _of_group(group: Object) -> Iterator[Check]:
    name, pod = f"group {group['groupName']}", group["template"]["spec"]
    least, most = group.get("minReplicas", 0), group.get("maxReplicas")
    if most is None:
        yield _bad(name, "no maxReplicas", "set it: KubeRay's default is two billion")
    elif not least <= group.get("replicas", least) <= most:
        yield _bad(
            name, f"replicas {group.get('replicas')} is not in {least} to {most}", "correct it: KubeRay refuses it"
        )
    declared, limits = group.get("resources", {}), pod["containers"][0].get("resources", {}).get("limits", {})
    gpus = [key for key in limits if key.endswith("/gpu")]
    if gpus and "GPU" not in declared and "num-gpus" not in group.get("rayStartParams", {}):
        yield _bad(name, f"{gpus[0]} is not declared to Ray", "set resources.GPU: the group would not start from zero")
    if gpus and least:
        yield _doubtful(
            name, f"minReplicas {least} with GPUs", "set 0: no run starts before they are there, and they are billed"
        )
    drain = next(
        (float(e["value"]) for e in pod["containers"][0].get("env", []) if e["name"] == DRAIN), DRAIN_DEFAULT_S
    )
    grace = float(pod.get("terminationGracePeriodSeconds", GRACE_DEFAULT_S))
    if grace <= drain:
        fix = "make the grace longer: SIGKILL comes before a worker has saved"
        yield _bad(name, f"terminationGracePeriodSeconds {grace:.0f}, and Ray drains {drain:.0f} s", fix)
