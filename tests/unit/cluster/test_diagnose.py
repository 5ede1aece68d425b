"""Troubles of a run, told from objects as `kubectl get -o json` shows them, cut down to the parts that are read."""

import pytest

from trainer.cluster.diagnose import Sight, troubles
from trainer.errors import ExitCode

NOW = 1_796_000_100.0
STAMP, LATE = "2026-11-30T00:53:20Z", "2026-11-30T00:54:30Z"  # 100 s and 30 s before
NEVER = 'Container image "fashion-mnist-on-ray:nope" is not present with pull policy of Never'
NO_GPU = (
    "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient nvidia.com/gpu. no new claims to "
    "deallocate, preemption: 0/3 nodes are available."
)
QUOTA = (
    'Error creating head Pod: failed to create head Pod training/r1-x-head: pods "r1-x-head" is forbidden: exceeded '
    "quota: training, requested: requests.memory=1Gi, used: requests.memory=256Mi, limited: requests.memory=512Mi"
)


def job(status=None, labels=None, made=STAMP, **spec):
    meta = {"name": "r1", "namespace": "training", "creationTimestamp": made, "labels": labels or {}}
    return {"metadata": meta, "spec": spec, "status": status or {}}


def pod(component="head", group="headgroup", phase="Pending", containers=(), conditions=(), **container):
    labels = {"app.kubernetes.io/component": component, "ray.io/group": group}
    meta = {"name": f"r1-x-{component}", "labels": labels, "creationTimestamp": STAMP}
    spec = {"containers": [{"name": f"ray-{component}", "image": "fashion-mnist-on-ray:nope", **container}]}
    status = {"phase": phase, "containerStatuses": list(containers), "conditions": list(conditions)}
    return {"metadata": meta, "spec": spec, "status": status}


def container(component="head", last=None, **state):
    return {"name": f"ray-{component}", "image": "fashion-mnist-on-ray:nope", "state": state, "lastState": last or {}}


def event(kind, name, reason, message, type_="Warning", last=LATE):
    return {
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
        "type": type_,
        "lastTimestamp": last,
    }


def unschedulable(message):
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


def node(**allocatable):
    return {"status": {"allocatable": allocatable}}


RUNNING = job({"jobDeploymentStatus": "Initializing"})


def only(sight):
    found = troubles(sight)
    assert len(found) == 1, found
    return found[0]


def waiting(reason, message):
    return Sight(RUNNING, [pod(containers=[container(waiting={"reason": reason, "message": message})])], now=NOW)


CASES = {
    "an image that is not in the node": (
        waiting("ErrImageNeverPull", NEVER),
        ExitCode.CLUSTER,
        [
            "image: fashion-mnist-on-ray:nope cannot be pulled for head pod r1-x-head",
            "pull policy of Never",
            "make image",
        ],
    ),
    "an image that no registry has": (
        waiting("ImagePullBackOff", 'Back-off pulling image "x/y:z": ErrImagePull: manifest unknown'),
        ExitCode.CLUSTER,
        ["manifest unknown", "correct image in the values", "pull secret"],
    ),
    "a Secret that is not there": (
        waiting("CreateContainerConfigError", 'secret "object-store" not found'),
        ExitCode.CLUSTER,
        ['head pod r1-x-head cannot start: secret "object-store" not found', "create the Secret object-store"],
    ),
    "a container that ends again and again": (
        Sight(
            RUNNING,
            [
                pod(
                    containers=[
                        container(
                            waiting={"reason": "CrashLoopBackOff", "message": "back-off 10s"},
                            last={"terminated": {"exitCode": 3, "reason": "Error"}},
                        )
                    ]
                )
            ],
            now=NOW,
        ),
        ExitCode.CLUSTER,
        ["ends again and again, the last time with code 3", "kubectl logs r1-x-head --previous"],
    ),
    "a head out of memory": (
        Sight(
            RUNNING,
            [
                pod(
                    phase="Running",
                    containers=[container(running={}, last={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})],
                    resources={"limits": {"memory": "4Gi"}},
                )
            ],
            now=NOW,
        ),
        ExitCode.RESOURCES,
        ["container ray-head of head pod r1-x-head was killed", "limit of 4Gi", "limits.memory of head.resources"],
    ),
    "GPUs that no node has": (
        Sight(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], nodes=[node(cpu="2")], now=NOW),
        ExitCode.RESOURCES,
        ["no node has nvidia.com/gpu:", "of group gpu has been asked for 100 s ago", "submit without --gpu"],
    ),
    "GPUs that are all taken": (
        Sight(
            RUNNING,
            [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])],
            nodes=[node(**{"nvidia.com/gpu": "2"})],
            now=NOW,
        ),
        ExitCode.RESOURCES,
        ["no node has nvidia.com/gpu free", "let other runs end"],
    ),
    "GPUs, where nodes may not be seen": (
        Sight(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], nodes=None, now=NOW),
        ExitCode.RESOURCES,
        ["no node has nvidia.com/gpu free"],
    ),
    "no room": (
        Sight(
            RUNNING,
            [
                pod(
                    "worker",
                    "cpu",
                    conditions=[unschedulable("0/3 nodes are available: 3 Insufficient cpu, 2 Insufficient memory.")],
                )
            ],
            now=NOW,
        ),
        ExitCode.RESOURCES,
        ["no node has room (cpu, memory)", "of group cpu", "ask for fewer workers"],
    ),
    "a selector that no node has": (
        Sight(
            RUNNING,
            [
                pod(
                    conditions=[
                        unschedulable("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.")
                    ]
                )
            ],
            now=NOW,
        ),
        ExitCode.RESOURCES,
        ["no node fits", "nodeSelector and tolerations"],
    ),
    "a volume that is not bound": (
        Sight(
            RUNNING,
            [
                pod(
                    conditions=[
                        unschedulable("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
                    ]
                )
            ],
            now=NOW,
        ),
        ExitCode.CLUSTER,
        ["volume: head pod r1-x-head waits for a volume that is not bound", "kubectl get pvc"],
    ),
    "a volume whose Secret is not there": (
        Sight(
            RUNNING,
            [pod()],
            [
                event(
                    "Pod",
                    "r1-x-head",
                    "FailedMount",
                    'MountVolume.SetUp failed for volume "token" : secret "s" not found',
                )
            ],
            now=NOW,
        ),
        ExitCode.CLUSTER,
        ["head pod r1-x-head cannot mount", "create the Secret s"],
    ),
    "a quota": (
        Sight(RUNNING, [], [event("RayCluster", "r1-x", "FailedToCreateHeadPod", QUOTA)], now=NOW),
        ExitCode.RESOURCES,
        [
            "quota: RayCluster r1-x may not make a pod",
            "requested: requests.memory=1Gi",
            "limited: requests.memory=512Mi",
        ],
    ),
    "admission": (
        Sight(
            RUNNING,
            [],
            [
                event(
                    "Job",
                    "r1",
                    "FailedCreate",
                    'Error creating: pods "r1-abc" is forbidden: violates PodSecurity "restricted:latest"',
                )
            ],
            now=NOW,
        ),
        ExitCode.CLUSTER,
        ["the cluster refuses a pod of Job r1", "violates PodSecurity"],
    ),
    "a RayJob that its operator refuses": (
        Sight(job(), [], [event("RayJob", "r1", "InvalidRayJobSpec", "The RayJob spec is invalid: x")], now=NOW),
        ExitCode.CLUSTER,
        ["its operator refuses RayJob r1", "spec is invalid"],
    ),
    "no operator": (
        Sight(job(), now=NOW),
        ExitCode.CLUSTER,
        ["nobody has taken up RayJob r1 for 100 s", "does not watch training", "make platform"],
    ),
    "Kueue": (
        Sight(job({"jobDeploymentStatus": "Suspended"}, {"kueue.x-k8s.io/queue-name": "gpus"}, suspend=True), now=NOW),
        ExitCode.RESOURCES,
        ["Kueue has not admitted RayJob r1 to gpus", "kubectl get workloads -n training"],
    ),
    "a run that somebody suspended": (
        Sight(job({"jobDeploymentStatus": "Suspended"}, suspend=True), now=NOW),
        ExitCode.CLUSTER,
        ["RayJob r1 has spec.suspend: true", '{"spec":{"suspend":false}}'],
    ),
}


def standing(others):
    groups = [{"groupName": "cpu", "maxReplicas": 1}]
    cluster = {"metadata": {"name": "training"}, "spec": {"workerGroupSpecs": groups}}
    worker = pod("worker", "cpu", phase="Running", containers=[container("worker", running={})])
    return Sight(RUNNING, [worker], [], cluster, None, others, NOW)


def test_a_standing_group_at_its_maximum_is_said_while_other_runs_use_it():
    trouble = only(standing(["first"]))
    assert (
        "group cpu of the standing RayCluster is at its maximum of 1 pods, and first may hold them" in trouble.sentence
    )
    assert trouble.hopeless_after_s is None
    assert troubles(standing([])) == []


@pytest.mark.parametrize("case", CASES)
def test_a_trouble_is_said_with_object_value_and_remedy(case):
    sight, code, parts = CASES[case]
    trouble = only(sight)
    assert trouble.code == code
    assert [part for part in parts if part not in trouble.sentence] == [], trouble.sentence
    assert trouble.sentence.endswith(".")


@pytest.mark.parametrize("case", ["Kueue", "a head out of memory", "a run that somebody suspended"])
def test_what_may_pass_by_itself_is_waited_for(case):
    assert only(CASES[case][0]).hopeless_after_s is None


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("Kueue", "a head out of memory", "a run that somebody suspended")]
)
def test_what_will_not_pass_is_given_up_within_half_a_minute(case):
    assert only(CASES[case][0]).hopeless_after_s <= 25


def test_a_node_that_is_on_its_way_is_waited_for():
    comes = event("Pod", "r1-x-worker", "TriggeredScaleUp", "pod triggered scale-up: [{gpu-pool 0->1}]", "Normal")
    trouble = only(Sight(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], [comes], now=NOW))
    assert "node that is being made (pod triggered scale-up" in trouble.sentence
    assert trouble.hopeless_after_s is None


def test_a_run_that_starts_as_it_should_has_no_trouble():
    starting = pod(containers=[container(waiting={"reason": "ContainerCreating"})])
    running = pod("worker", "cpu", phase="Running", containers=[container("worker", running={})])
    probes = event("Pod", "r1-x-head", "Unhealthy", "Startup probe failed: connection refused")
    assert troubles(Sight(RUNNING, [starting, running], [probes], now=NOW)) == []


def test_an_operator_is_given_time_to_take_up_a_run():
    assert troubles(Sight(job(made="2026-11-30T00:54:55Z"), now=NOW)) == []


def test_old_events_count_no_more():
    old = event("RayCluster", "r1-x", "FailedToCreateHeadPod", QUOTA, last="2026-11-30T00:53:00Z")
    assert troubles(Sight(RUNNING, [], [old], now=NOW)) == []


def test_the_same_trouble_of_several_pods_is_said_once():
    pods = [pod(containers=[container(waiting={"reason": "ErrImageNeverPull", "message": NEVER})]) for _ in range(3)]
    assert len(troubles(Sight(RUNNING, pods, now=NOW))) == 1


def test_of_a_trouble_that_several_pods_have_the_head_s_is_said():
    stuck = {"reason": "ErrImageNeverPull", "message": NEVER}
    pods = [pod(kind, containers=[container(kind, waiting=stuck)]) for kind in ("worker", "head")]
    assert "for head pod r1-x-head" in only(Sight(RUNNING, pods, now=NOW)).sentence
