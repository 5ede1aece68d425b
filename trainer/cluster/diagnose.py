"""Why a run on Kubernetes does not get on, in a sentence with the remedy: from what the cluster itself says.

Pure functions over plain objects, so that they can be shown any cluster. A `Trouble` that nothing will cure by itself
says after how many seconds there is no more hope; one that may pass has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trainer.errors import ExitCode

Object = dict[str, Any]

KUEUE = "kueue.x-k8s.io/queue-name"
OPERATOR_ANSWERS_S = 12.0  # after that long nobody has taken up a new RayJob
SETTLES_S = 20.0  # a trouble that has lasted so long will not go by itself
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")
NODE_COMES = ("TriggeredScaleUp", "Nominated", "NominatedNode")
VALUES = "in the values of helm/training"


@dataclass(frozen=True)
class Sight:
    """What was to be seen of a run at one moment, `now` by the cluster's clock (seconds since 1970).

    `pods` and `events` are those of the run alone; `nodes` is None where the user may not see them. Where the run uses
    a standing cluster, `cluster` is that, and `others` are the runs that use it too.
    """

    job: Object
    pods: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    cluster: Object | None = None
    nodes: list[Object] | None = None
    others: list[str] = field(default_factory=list)
    now: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """One thing that holds up a run. `about` stays the same while it does; the sentence may change."""

    about: str
    sentence: str
    code: ExitCode
    hopeless_after_s: float | None = None


def troubles(sight: Sight) -> list[Trouble]:
    """All that holds up a run, the worst first."""
    found = [*_of_job(sight), *_of_events(sight), *_of_groups(sight)]
    for pod in sorted(sight.pods, key=lambda each: _kind(each) != "head"):  # the others wait for the head
        found += [*_of_containers(pod), *_of_volumes(pod, sight.events), *_of_scheduling(pod, sight)]
    unique = {each.about: each for each in reversed(found)}
    return sorted(unique.values(), key=lambda each: each.hopeless_after_s or float("inf"))


def _of_job(sight: Sight) -> Iterator[Trouble]:
    meta, spec, status = sight.job["metadata"], sight.job["spec"], sight.job.get("status") or {}
    name, state = meta["name"], status.get("jobDeploymentStatus", "")
    queue = meta.get("labels", {}).get(KUEUE)
    if spec.get("suspend") and queue:
        yield Trouble(
            "queue",
            f"queue: Kueue has not admitted RayJob {name} to {queue} yet; it starts when there is room "
            f"(kubectl get workloads -n {meta['namespace']}).",
            ExitCode.RESOURCES,
        )
    elif spec.get("suspend") and state == "Suspended":
        yield Trouble(
            "suspended",
            f"suspended: RayJob {name} has spec.suspend: true; somebody set it, and can set it back: "
            f'kubectl patch rayjob {name} -n {meta["namespace"]} --type merge -p \'{{"spec":{{"suspend":false}}}}\'.',
            ExitCode.CLUSTER,
        )
    elif not state and age(sight.job, sight.now) > OPERATOR_ANSWERS_S and not sight.events:
        yield Trouble(
            "operator",
            f"KubeRay: nobody has taken up RayJob {name} for {age(sight.job, sight.now):.0f} s; its operator is not "
            f"installed, is down, or does not watch {meta['namespace']}: make platform.",
            ExitCode.CLUSTER,
            1.0,
        )


def _of_events(sight: Sight) -> Iterator[Trouble]:
    for event in sight.events:
        about, text = _object(event), event.get("message", "")
        if event.get("type") != "Warning" or sight.now - when(event) > 90 or "Pod " in about:
            continue
        if quota := re.search(r"exceeded quota: (.+)", text):
            yield Trouble(
                "quota",
                f"quota: {about} may not make a pod: exceeded quota {quota[1].rstrip('.')}; let other runs end, ask "
                f"for less, or raise quota {VALUES}.",
                ExitCode.RESOURCES,
                SETTLES_S / 2,
            )
        elif "violates PodSecurity" in text or "admission webhook" in text or "is forbidden" in text:
            yield Trouble(
                "admission",
                f"admission: the cluster refuses a pod of {about}: {_short(text)}; what refuses says what it wants.",
                ExitCode.CLUSTER,
                SETTLES_S / 2,
            )
        elif event.get("reason", "").startswith("InvalidRayJob") or "ValidationFailed" in event.get("reason", ""):
            yield Trouble(
                "invalid",
                f"KubeRay: its operator refuses {about}: {_short(text)}; correct it {VALUES}.",
                ExitCode.CLUSTER,
                SETTLES_S / 4,
            )


def _of_groups(sight: Sight) -> Iterator[Trouble]:
    cluster = sight.cluster if sight.others else None
    for group in cluster["spec"].get("workerGroupSpecs", []) if cluster else []:
        name, most = group["groupName"], group["maxReplicas"] * group.get("numOfHosts", 1)
        if sum(pod["metadata"].get("labels", {}).get("ray.io/group") == name for pod in sight.pods) >= most > 0:
            yield Trouble(
                f"group {name}",
                f"workers: group {name} of the standing RayCluster is at its maximum of {most} pods, and "
                f"{', '.join(sight.others)} may hold them; wait, or raise maxReplicas {VALUES}.",
                ExitCode.RESOURCES,
            )


def _of_containers(pod: Object) -> Iterator[Trouble]:
    for status in _statuses(pod):
        waiting = status["state"].get("waiting") or {}
        reason, text = waiting.get("reason", ""), waiting.get("message", "")
        if reason in NO_IMAGE:
            yield _no_image(pod, status, text or reason)
        elif reason in ("CreateContainerConfigError", "CreateContainerError"):
            yield Trouble(
                f"start of {_name(pod)}",
                f"start: {_kind(pod)} pod {_name(pod)} cannot start: {_short(text)}; {_remedy(text)}.",
                ExitCode.CLUSTER,
                SETTLES_S / 2,
            )
        elif _last_end(status).get("reason") == "OOMKilled":
            limit = _container(pod, status["name"]).get("resources", {}).get("limits", {}).get("memory", "no limit")
            where = "head.resources" if _kind(pod) == "head" else "the group's resources"
            yield Trouble(
                f"memory of {_name(pod)}",
                f"memory: container {status['name']} of {_kind(pod)} pod {_name(pod)} was killed for more than its "
                f"limit of {limit}; raise limits.memory of {where} {VALUES}.",
                ExitCode.RESOURCES,
            )
        elif reason == "CrashLoopBackOff":
            yield Trouble(
                f"crash of {_name(pod)}",
                f"crash: container {status['name']} of {_kind(pod)} pod {_name(pod)} ends again and again, the last "
                f"time with code {_last_end(status).get('exitCode')}; read it: kubectl logs {_name(pod)} --previous.",
                ExitCode.CLUSTER,
                SETTLES_S,
            )


def _no_image(pod: Object, status: Object, text: str) -> Trouble:
    image = status.get("image") or _container(pod, status["name"]).get("image", "")
    never = "is not present with pull policy of Never" in text or "ErrImageNeverPull" in text
    remedy = "load it into the nodes (kind: make image load)" if never else "push it, or give the pods a pull secret"
    return Trouble(
        "image",
        f"image: {image} cannot be pulled for {_kind(pod)} pod {_name(pod)} ({_short(text)}); correct image {VALUES}, "
        f"or {remedy}.",
        ExitCode.CLUSTER,
        SETTLES_S / 2 if never else SETTLES_S,
    )


def _remedy(text: str) -> str:
    if missing := re.search(r'(secret|configmap) "([^"]+)" not found', text, re.IGNORECASE):
        kind = "Secret" if missing[1].lower() == "secret" else "ConfigMap"
        return f"create the {kind} {missing[2]} in this namespace, or name another {VALUES}"
    return f"correct what it names {VALUES}"


def _of_volumes(pod: Object, events: list[Object]) -> Iterator[Trouble]:
    if pod["status"].get("phase") != "Pending":
        return
    for event in events:
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and _object(event) == f"Pod {_name(pod)}":
            text = event.get("message", "")
            yield Trouble(
                f"volume of {_name(pod)}",
                f"volume: {_kind(pod)} pod {_name(pod)} cannot mount: {_short(text)}; {_remedy(text)}.",
                ExitCode.CLUSTER,
                SETTLES_S,
            )


def _of_scheduling(pod: Object, sight: Sight) -> Iterator[Trouble]:
    waits = _condition(pod, "PodScheduled")
    if waits.get("status") != "False" or pod["status"].get("phase") != "Pending":
        return
    text, seconds = waits.get("message", ""), age(pod, sight.now)
    coming = [
        each for each in sight.events if each.get("reason") in NODE_COMES and _object(each) == f"Pod {_name(pod)}"
    ]
    who = f"{_kind(pod)} pod {_name(pod)}"
    if coming:
        yield Trouble(
            f"node for {_name(pod)}",
            f"node: {who} has waited {seconds:.0f} s for a node that is being made ({_short(coming[-1]['message'])}).",
            ExitCode.RESOURCES,
        )
    elif "PersistentVolumeClaim" in text or "persistentvolumeclaim" in text:
        yield Trouble(
            "volume",
            f"volume: {who} waits for a volume that is not bound ({_short(text)}); look at kubectl get pvc, and at the "
            "storage class.",
            ExitCode.CLUSTER,
            SETTLES_S,
        )
    else:
        yield Trouble(f"room for {_kind(pod)}", _no_room(pod, sight, who, seconds), ExitCode.RESOURCES, SETTLES_S)


def _no_room(pod: Object, sight: Sight, who: str, seconds: float) -> str:
    text = _condition(pod, "PodScheduled").get("message", "")
    short = re.findall(r"Insufficient ([\w.\-/]+\w)", text)
    device = next((each for each in short if "/" in each), None)
    if device:
        have = nodes_with(device, sight.nodes)
        what = f"no node has {device}" if have == 0 else f"no node has {device} free"
        remedy = "add nodes with it, or submit without --gpu" if have == 0 else "let other runs end, or add nodes"
    elif short:
        what, remedy = f"no node has room ({', '.join(dict.fromkeys(short))})", "ask for fewer workers, or add nodes"
    else:
        what, remedy = "no node fits", f"correct nodeSelector and tolerations {VALUES}, or add such nodes"
    group = pod["metadata"].get("labels", {}).get("ray.io/group")
    asked = f" of group {group}" if group and group != "headgroup" else ""
    return f"room: {what}: {who}{asked} has been asked for {seconds:.0f} s ago ({_short(text)}); {remedy}."


def nodes_with(device: str, nodes: list[Object] | None) -> int | None:
    """How many nodes have a device, taken or not; None if nodes may not be seen."""
    if nodes is None:
        return None
    return sum(str(node["status"].get("allocatable", {}).get(device, "0")) != "0" for node in nodes)


def age(thing: Object, now: float) -> float:
    """Seconds since an object was made."""
    return now - seconds(thing["metadata"]["creationTimestamp"])


def when(event: Object) -> float:
    """When an event was last seen, in seconds since 1970."""
    stamp = event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp")
    return seconds(stamp) if stamp else 0.0


def seconds(stamp: str) -> float:
    """One of Kubernetes' times, in seconds since 1970."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _statuses(pod: Object) -> list[Object]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _last_end(status: Object) -> Object:
    ended: Object = status["state"].get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
    return ended


def _container(pod: Object, name: str) -> Object:
    every = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return next((each for each in every if each["name"] == name), {})


def _condition(pod: Object, kind: str) -> Object:
    return next((each for each in pod["status"].get("conditions", []) if each["type"] == kind), {})


def _kind(pod: Object) -> str:
    return str(pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "a"))


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _object(event: Object) -> str:
    return f"{event['involvedObject'].get('kind')} {event['involvedObject'].get('name')}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
