"""Why a run on Kubernetes is not running yet: the problem and its fix, from what the cluster itself says.

Pure functions over plain objects, so they can be tried on any cluster. A `Problem` that will not go away by itself says
after how many seconds a follower gives up; one that may go away has None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from trainer.cluster.api import KubeObject
from trainer.cluster.patience import seconds
from trainer.cluster.rayjob import KUEUE_QUEUE
from trainer.errors import ExitCode

OPERATOR_ANSWERS_S = 12.0  # a running operator picks up a new RayJob well before; then it is said that none does
EVENT_COUNTS_S = 90.0  # an older event may be about what has been solved since
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")
NO_SUCH_IMAGE = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|no basic auth|invalid reference|InvalidImageName|"
    r"ErrImageNeverPull|pull policy of Never",
    re.IGNORECASE,
)
NODE_IS_COMING = ("TriggeredScaleUp", "Nominated", "NominatedNode")  # cluster-autoscaler, Karpenter
NO_NODE_COMES = ("NotTriggerScaleUp", "FailedScaleUp")  # cluster-autoscaler; Karpenter says it as FailedScheduling
# cluster-autoscaler's words for a node group that fits, and may grow later
NOT_NOW = re.compile(r"in backoff|max node group size reached|limit reached|out of resources|stockout", re.IGNORECASE)
# Where nodes come from no cloud: their `providerID`.
LOCAL_NODES = ("", "kind", "k3s", "minikube", "docker")
VALUES = "in the values of helm/training"


@dataclass(frozen=True)
class Snapshot:
    """What a cluster shows of a run at one moment, `now` by the cluster's clock (seconds since 1970).

    `pods` and `events` are those of the run alone; `nodes` is None where the user may not list them. Where the run uses
    a standing cluster, `cluster` is that, and `other_runs` are the names of the runs that use it too. `kubectl` is the
    command with its options for this cluster and namespace.
    """

    job: KubeObject
    pods: list[KubeObject] = field(default_factory=list)
    events: list[KubeObject] = field(default_factory=list)
    cluster: KubeObject | None = None
    nodes: list[KubeObject] | None = None
    other_runs: list[str] = field(default_factory=list)
    now: float = 0.0
    kubectl: str = "kubectl"

    def command(self, words: str) -> str:
        """Return a command of kubectl that reaches this cluster and namespace, wherever it is pasted."""
        return f"{self.kubectl} {words}"


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a run from running; `about` identifies it while its words change."""

    about: str
    problem: str
    fix: str
    exit_code: ExitCode
    give_up_after_s: float | None = None


def problems(snapshot: Snapshot) -> list[Problem]:
    """Return everything that keeps a run from running, the most hopeless first."""
    found = [*_of_job(snapshot), *_of_events(snapshot), *_of_groups(snapshot)]
    for pod in sorted(snapshot.pods, key=lambda pod: _kind(pod) != "head"):  # the others wait for the head
        found += [*_of_containers(pod, snapshot), *_of_volumes(pod, snapshot.events), *_of_scheduling(pod, snapshot)]
    unique = {problem.about: problem for problem in reversed(found)}
    return sorted(unique.values(), key=_patience_s)


def _patience_s(problem: Problem) -> float:
    return float("inf") if problem.give_up_after_s is None else problem.give_up_after_s


def _of_job(snapshot: Snapshot) -> Iterator[Problem]:
    metadata = snapshot.job["metadata"]
    name = metadata["name"]
    namespace = metadata["namespace"]
    suspended = snapshot.job["spec"].get("suspend")
    state = (snapshot.job.get("status") or {}).get("jobDeploymentStatus", "")
    queue = (metadata.get("labels") or {}).get(KUEUE_QUEUE)
    waited_s = age(snapshot.job, snapshot.now)
    if suspended and queue:
        yield Problem(
            "queue",
            f"queue: Kueue has not admitted RayJob {name} to {queue} yet",
            f"wait: it starts when there is room ({snapshot.command('get workloads')})",
            ExitCode.RESOURCES,
        )
    elif suspended and state == "Suspended":
        patch = snapshot.command(f"""patch rayjob {name} --type merge -p '{{"spec":{{"suspend":false}}}}'""")
        yield Problem(
            "suspended",
            f"suspended: RayJob {name} has spec.suspend: true; somebody set it",
            f"set it back: {patch}",
            ExitCode.CLUSTER,
        )
    elif not state and waited_s > OPERATOR_ANSWERS_S and not snapshot.events:
        yield Problem(
            "operator",
            f"KubeRay: no operator has picked up RayJob {name} after {waited_s:.0f} s: it is not installed, not "
            f"running, or not watching namespace {namespace}",
            "install it: make install-platform",
            ExitCode.CLUSTER,
            seconds("operator") - OPERATOR_ANSWERS_S,
        )


def _of_events(snapshot: Snapshot) -> Iterator[Problem]:
    for event in snapshot.events:
        subject = _subject(event)
        message = event.get("message") or ""
        reason = event.get("reason") or ""
        too_old = snapshot.now - seen_at(event) > EVENT_COUNTS_S
        if event.get("type") != "Warning" or too_old or subject.startswith("Pod "):
            continue
        if quota := re.search(r"exceeded quota: (.+)", message):
            yield Problem(
                "quota",
                f"quota: {subject} may not create a pod: exceeded quota {quota[1].rstrip('.')}",
                f"wait for other runs to end, ask for less, or raise quota {VALUES}",
                ExitCode.RESOURCES,
                seconds("quota"),
            )
        elif "violates PodSecurity" in message or "admission webhook" in message or "is forbidden" in message:
            yield Problem(
                "admission",
                f"admission: the cluster refuses a pod of {subject}: {_shortened(message)}",
                "see the message of the policy above",
                ExitCode.CLUSTER,
                seconds("webhook" if "failed calling webhook" in message else "definite"),
            )
        elif reason.startswith("InvalidRayJob") or "ValidationFailed" in reason:
            yield Problem(
                "invalid",
                f"KubeRay: the operator refuses {subject}: {_shortened(message)}",
                f"correct it {VALUES}",
                ExitCode.CLUSTER,
                seconds("definite"),
            )


def _of_groups(snapshot: Snapshot) -> Iterator[Problem]:
    cluster = snapshot.cluster if snapshot.other_runs else None
    for group in cluster["spec"].get("workerGroupSpecs", []) if cluster else []:
        name = group["groupName"]
        most = group["maxReplicas"] * group.get("numOfHosts", 1)
        pods = sum((pod["metadata"].get("labels") or {}).get("ray.io/group") == name for pod in snapshot.pods)
        if pods >= most > 0:
            yield Problem(
                f"group {name}",
                f"workers: group {name} of the standing RayCluster is at its maximum of {most} pods, and "
                f"{', '.join(snapshot.other_runs)} may be using them",
                f"wait, or raise maxReplicas {VALUES}",
                ExitCode.RESOURCES,
            )


def _of_containers(pod: KubeObject, snapshot: Snapshot) -> Iterator[Problem]:
    for status in _container_statuses(pod):
        waiting = status["state"].get("waiting") or {}
        reason = waiting.get("reason") or ""
        message = waiting.get("message") or ""
        ended = _last_end(status)
        if reason in NO_IMAGE:
            yield _no_image(pod, status, message or reason)
        elif reason in ("CreateContainerConfigError", "CreateContainerError"):
            yield Problem(
                f"start of {_name(pod)}",
                f"start: {_kind(pod)} pod {_name(pod)} cannot start: {_shortened(message)}",
                _fix_of_reference(message),
                ExitCode.CLUSTER,
                seconds("reference"),
            )
        elif ended.get("reason") == "OOMKilled":
            limit = _container(pod, status["name"]).get("resources", {}).get("limits", {}).get("memory")
            resources = "head.resources" if _kind(pod) == "head" else "the group's resources"
            yield Problem(
                f"memory of {_name(pod)}",
                f"memory: container {status['name']} of {_kind(pod)} pod {_name(pod)} was killed: it used more than "
                + (f"its limit of {limit}" if limit else "the node has"),
                f"raise limits.memory of {resources} {VALUES}",
                ExitCode.RESOURCES,
            )
        elif reason == "CrashLoopBackOff":
            yield Problem(
                f"crash of {_name(pod)}",
                f"crash: container {status['name']} of {_kind(pod)} pod {_name(pod)} keeps crashing, last with exit "
                f"code {ended.get('exitCode')}",
                f"read its log: {snapshot.command(f'logs {_name(pod)} --previous')}",
                ExitCode.CLUSTER,
                seconds("crash"),
            )


def _no_image(pod: KubeObject, status: KubeObject, message: str) -> Problem:
    image = status.get("image") or _container(pod, status["name"]).get("image", "")
    reason = status["state"]["waiting"].get("reason") or ""
    never_pulled = "is not present with pull policy of Never" in message or "ErrImageNeverPull" in message
    remedy = "load it into the nodes (kind: make image kind-load)" if never_pulled else "push it, or add a pull secret"
    return Problem(
        "image",
        f"image: {image} cannot be pulled for {_kind(pod)} pod {_name(pod)} ({_shortened(message)})",
        f"correct image {VALUES}, or {remedy}",
        ExitCode.CLUSTER,
        seconds("definite" if NO_SUCH_IMAGE.search(f"{reason} {message}") else "registry"),
    )


def _fix_of_reference(message: str) -> str:
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', message, re.IGNORECASE)
    if missing is None:
        return f"correct it {VALUES}"
    kind = "Secret" if missing[1].lower() == "secret" else "ConfigMap"
    return f"create the {kind} {missing[2]} in this namespace, or name another {VALUES}"


def _of_volumes(pod: KubeObject, events: list[KubeObject]) -> Iterator[Problem]:
    if pod["status"].get("phase") != "Pending":
        return
    for event in events:
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and _subject(event) == f"Pod {_name(pod)}":
            message = event.get("message") or ""
            yield Problem(
                f"volume of {_name(pod)}",
                f"volume: {_kind(pod)} pod {_name(pod)} cannot mount a volume: {_shortened(message)}",
                _fix_of_reference(message),
                ExitCode.CLUSTER,
                seconds("reference" if "not found" in message else "volume"),
            )


def _of_scheduling(pod: KubeObject, snapshot: Snapshot) -> Iterator[Problem]:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") != "False" or pod["status"].get("phase") != "Pending":
        return
    message = scheduled.get("message") or ""
    pod_name = f"{_kind(pod)} pod {_name(pod)}"
    answer = autoscaler_answer(pod, snapshot.events)
    if answer and answer.get("reason") in NODE_IS_COMING:
        yield Problem(
            f"node for {_name(pod)}",
            f"node: {pod_name} has been pending for {age(pod, snapshot.now):.0f} s, and a node is being created for it "
            f"({_shortened(answer.get('message') or '')})",
            "wait",
            ExitCode.RESOURCES,
        )
    elif "persistentvolumeclaim" in message.lower():
        yield Problem(
            "volume",
            f"volume: {pod_name} waits for a volume that is not bound ({_shortened(message)})",
            f"check {snapshot.command('get pvc')}, and the storage class",
            ExitCode.CLUSTER,
            seconds("volume"),
        )
    else:
        yield _no_room(pod, snapshot, message, answer)


def autoscaler_answer(pod: KubeObject, events: list[KubeObject]) -> KubeObject | None:
    """Return the last event in which an autoscaler says whether it creates a node for a pod; None if none has."""
    about_pod = [event for event in events if _subject(event) == f"Pod {_name(pod)}"]
    answers = [event for event in about_pod if event.get("reason") in (*NODE_IS_COMING, *NO_NODE_COMES)]
    answers += [event for event in about_pod if event.get("reason") == "FailedScheduling" and _is_by_karpenter(event)]
    return max(answers, key=seen_at, default=None)


def _is_by_karpenter(event: KubeObject) -> bool:
    by = event.get("reportingComponent") or (event.get("source") or {}).get("component") or ""
    return "karpenter" in by


def _wait_for_room(snapshot: Snapshot, answer: KubeObject | None) -> float:
    if answer is not None:
        return seconds("node group" if NOT_NOW.search(answer.get("message") or "") else "definite")
    local = snapshot.nodes is not None and all(
        (node.get("spec") or {}).get("providerID", "").partition(":")[0] in LOCAL_NODES for node in snapshot.nodes
    )
    return seconds("no autoscaler" if local else "autoscaler")


def _no_room(pod: KubeObject, snapshot: Snapshot, message: str, answer: KubeObject | None) -> Problem:
    insufficient = re.findall(r"Insufficient ([\w.\-/]+\w)", message)
    device = next((resource for resource in insufficient if "/" in resource), None)
    if device and nodes_with(device, snapshot.nodes) == 0:
        what, fix = f"no node has {device}", "add nodes with it, or submit without --gpu"
    elif device:
        what, fix = f"no node has {device} free", "wait for other runs to end, or add nodes"
    elif insufficient:
        what = f"no node has room ({', '.join(dict.fromkeys(insufficient))})"
        fix = "ask for fewer workers, or add nodes"
    else:
        what, fix = "no node fits", f"correct nodeSelector and tolerations {VALUES}, or add such nodes"
    group = (pod["metadata"].get("labels") or {}).get("ray.io/group")
    of_group = f" (group {group})" if group and group != "headgroup" else ""
    said = f"; the autoscaler: {_shortened(answer.get('message') or '')}" if answer else ""
    return Problem(
        f"room for {_kind(pod)}",
        f"room: {what}: {_kind(pod)} pod {_name(pod)}{of_group} has been pending for {age(pod, snapshot.now):.0f} s "
        f"({_shortened(message)}){said}",
        fix,
        ExitCode.RESOURCES,
        _wait_for_room(snapshot, answer),
    )


def nodes_with(device: str, nodes: list[KubeObject] | None) -> int | None:
    """Return how many nodes have a device, free or not; None if the nodes are unknown."""
    if nodes is None:
        return None
    return sum(str(node["status"].get("allocatable", {}).get(device, "0")) != "0" for node in nodes)


def age(thing: KubeObject, now: float) -> float:
    """Return the seconds since an object was created."""
    return now - timestamp(thing["metadata"]["creationTimestamp"])


def seen_at(event: KubeObject) -> float:
    """Return when an event was last seen, in seconds since 1970."""
    stamp = event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp")
    return timestamp(stamp) if stamp else 0.0


def timestamp(stamp: str) -> float:
    """Return one of Kubernetes' times in seconds since 1970."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _container_statuses(pod: KubeObject) -> list[KubeObject]:
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _last_end(status: KubeObject) -> KubeObject:
    ended: KubeObject = status["state"].get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
    return ended


def _container(pod: KubeObject, name: str) -> KubeObject:
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return next((container for container in containers if container["name"] == name), {})


def _condition(pod: KubeObject, kind: str) -> KubeObject:
    conditions = pod["status"].get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _kind(pod: KubeObject) -> str:
    return str((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", "unlabelled"))


def _name(pod: KubeObject) -> str:
    return str(pod["metadata"]["name"])


def _subject(event: KubeObject) -> str:
    return f"{event['involvedObject'].get('kind')} {event['involvedObject'].get('name')}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
