"""Problems of a run, told from objects as `kubectl get -o json` shows them, cut down to the parts that are read."""

from dataclasses import replace

import pytest

from trainer.cluster import diagnose
from trainer.cluster.diagnose import Snapshot, problems
from trainer.cluster.patience import seconds
from trainer.errors import ExitCode, sentence

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


def only(snapshot):
    found = problems(snapshot)
    assert len(found) == 1, found
    return found[0]


def waiting(reason, message):
    return Snapshot(RUNNING, [pod(containers=[container(waiting={"reason": reason, "message": message})])], now=NOW)


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
        Snapshot(
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
        ["keeps crashing, last with exit code 3", "kubectl logs r1-x-head --previous"],
    ),
    "a head out of memory": (
        Snapshot(
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
        Snapshot(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], nodes=[node(cpu="2")], now=NOW),
        ExitCode.RESOURCES,
        ["no node has nvidia.com/gpu:", "(group gpu) has been pending for 100 s", "submit without --gpu"],
    ),
    "GPUs that are all taken": (
        Snapshot(
            RUNNING,
            [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])],
            nodes=[node(**{"nvidia.com/gpu": "2"})],
            now=NOW,
        ),
        ExitCode.RESOURCES,
        ["no node has nvidia.com/gpu free", "wait for other runs to end"],
    ),
    "GPUs, where nodes may not be seen": (
        Snapshot(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], nodes=None, now=NOW),
        ExitCode.RESOURCES,
        ["no node has nvidia.com/gpu free"],
    ),
    "no room": (
        Snapshot(
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
        ["no node has room (cpu, memory)", "(group cpu)", "ask for fewer workers"],
    ),
    "a selector that no node has": (
        Snapshot(
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
        Snapshot(
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
        Snapshot(
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
        ["head pod r1-x-head cannot mount a volume", "create the Secret s"],
    ),
    "a quota": (
        Snapshot(RUNNING, [], [event("RayCluster", "r1-x", "FailedToCreateHeadPod", QUOTA)], now=NOW),
        ExitCode.RESOURCES,
        [
            "quota: RayCluster r1-x may not create a pod",
            "requested: requests.memory=1Gi",
            "limited: requests.memory=512Mi",
        ],
    ),
    "admission": (
        Snapshot(
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
        Snapshot(job(), [], [event("RayJob", "r1", "InvalidRayJobSpec", "The RayJob spec is invalid: x")], now=NOW),
        ExitCode.CLUSTER,
        ["the operator refuses RayJob r1", "spec is invalid"],
    ),
    "no operator": (
        Snapshot(job(), now=NOW),
        ExitCode.CLUSTER,
        ["no operator has picked up RayJob r1 after 100 s", "not watching namespace training", "make install-platform"],
    ),
    "Kueue": (
        Snapshot(
            job({"jobDeploymentStatus": "Suspended"}, {"kueue.x-k8s.io/queue-name": "gpus"}, suspend=True), now=NOW
        ),
        ExitCode.RESOURCES,
        ["Kueue has not admitted RayJob r1 to gpus", "kubectl get workloads"],
    ),
    "a run that somebody suspended": (
        Snapshot(job({"jobDeploymentStatus": "Suspended"}, suspend=True), now=NOW),
        ExitCode.CLUSTER,
        ["RayJob r1 has spec.suspend: true", '{"spec":{"suspend":false}}'],
    ),
}


def standing(others):
    groups = [{"groupName": "cpu", "maxReplicas": 1}]
    cluster = {"metadata": {"name": "training"}, "spec": {"workerGroupSpecs": groups}}
    worker = pod("worker", "cpu", phase="Running", containers=[container("worker", running={})])
    return Snapshot(RUNNING, [worker], [], cluster, None, others, NOW)


def test_a_full_standing_group_is_a_problem_while_other_runs_use_it():
    problem = only(standing(["first"]))
    assert "group cpu of the standing RayCluster is at its maximum of 1 pods, and first may be using" in problem.problem
    assert problem.give_up_after_s is None
    assert problems(standing([])) == []


@pytest.mark.parametrize("case", CASES)
def test_a_problem_names_the_object_the_value_and_the_fix(case):
    snapshot, code, parts = CASES[case]
    problem = only(snapshot)
    text = sentence(problem.problem, problem.fix)
    assert problem.exit_code == code
    assert [part for part in parts if part not in text] == [], text
    assert problem.fix
    assert not problem.problem.endswith(".")


def told(snapshot):
    problem = only(snapshot)
    return problem.problem, problem.fix


WAITED_FOR = ("Kueue", "a head out of memory", "a run that somebody suspended")


@pytest.mark.parametrize("case", WAITED_FOR)
def test_a_problem_that_may_go_away_is_waited_for(case):
    assert only(CASES[case][0]).give_up_after_s is None


WAITS = {
    "an image that is not in the node": "definite",
    "an image that no registry has": "definite",
    "a Secret that is not there": "reference",
    "a container that ends again and again": "crash",
    "GPUs that no node has": "no autoscaler",
    "GPUs that are all taken": "no autoscaler",
    "GPUs, where nodes may not be seen": "autoscaler",
    "no room": "autoscaler",
    "a selector that no node has": "autoscaler",
    "a volume that is not bound": "volume",
    "a volume whose Secret is not there": "reference",
    "a quota": "quota",
    "admission": "definite",
    "a RayJob that its operator refuses": "definite",
}


@pytest.mark.parametrize("case", [case for case in CASES if case not in (*WAITED_FOR, "no operator")])
def test_each_problem_has_the_patience_of_its_kind(case):
    assert only(CASES[case][0]).give_up_after_s == seconds(WAITS[case])


def test_an_operator_that_restarts_is_waited_for():
    assert only(CASES["no operator"][0]).give_up_after_s + diagnose.OPERATOR_ANSWERS_S == seconds("operator")


FAR_BEYOND = {  # what others document: their delay, and the wait that must be well beyond it
    "cluster-autoscaler's wait for pods with GPUs, and its interval": ("no autoscaler", 30 + 10),
    "a look of cluster-autoscaler at a large cluster": ("autoscaler", 60 + 30),
    "cluster-autoscaler's pause after a failure to grow": ("node group", 300),
    "the kubelet's longest pause between pulls": ("registry", 300 - 1),
    "a lost node's disk": ("volume", 360),
    "workers that drain": ("quota", 90),
    "three starts of a container": ("crash", 10 + 20 + 40),
    "the lease of the operator's leader": ("operator", 15),
}


@pytest.mark.parametrize("delay", FAR_BEYOND)
def test_a_wait_is_longer_than_the_delay_it_is_for(delay):
    wait, documented = FAR_BEYOND[delay]
    assert seconds(wait) > documented


def pending(*events, nodes=None):
    return only(
        Snapshot(
            RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], list(events), nodes=nodes, now=NOW
        )
    )


def said(reason, message, **more):
    return {**event("Pod", "r1-x-worker", reason, message, more.pop("type_", "Normal")), **more}


CLOUD = [{**node(), "spec": {"providerID": "gce://project/zone/node"}}]
HERE = [{**node(), "spec": {"providerID": "kind://docker/kind/kind-worker"}}]


@pytest.mark.parametrize(
    ("events", "nodes", "wait"),
    [
        ([], CLOUD, "autoscaler"),
        ([], HERE, "no autoscaler"),
        ([], None, "autoscaler"),
        (
            [said("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 node(s) didn't match affinity")],
            CLOUD,
            "definite",
        ),
        (
            [said("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 in backoff after failed scale-up")],
            CLOUD,
            "node group",
        ),
        ([said("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached")], HERE, "node group"),
        ([said("FailedScaleUp", "GCE out of resources")], CLOUD, "node group"),
        (
            [said("FailedScheduling", "incompatible with nodepool default", source={"component": "karpenter"})],
            CLOUD,
            "definite",
        ),
        ([said("FailedScheduling", NO_GPU, source={"component": "default-scheduler"})], CLOUD, "autoscaler"),
    ],
)
def test_a_pod_without_room_waits_for_what_an_autoscaler_says(events, nodes, wait):
    assert pending(*events, nodes=nodes).give_up_after_s == seconds(wait)


def test_the_last_word_of_an_autoscaler_counts():
    no = said("NotTriggerScaleUp", "no group fits", lastTimestamp=STAMP)
    yes = said("TriggeredScaleUp", "pool 0->1", lastTimestamp=LATE)
    assert pending(no, yes).give_up_after_s is None
    no_again = {**no, "lastTimestamp": "2026-11-30T00:54:40Z"}
    problem = pending(yes, no_again)
    assert problem.give_up_after_s == seconds("definite")
    assert "the autoscaler: no group fits" in problem.problem


@pytest.mark.parametrize(
    ("message", "wait"),
    [
        ('rpc error: code = NotFound desc = failed to pull and unpack image "x": not found', "definite"),
        ("failed to resolve reference: unexpected status 401 Unauthorized", "definite"),
        ("pull access denied, repository does not exist", "definite"),
        ("failed to do request: dial tcp: lookup registry: no such host", "registry"),
        ("429 Too Many Requests: toomanyrequests", "registry"),
        ("dial tcp 10.0.0.1:443: i/o timeout", "registry"),
        ('Back-off pulling image "x"', "registry"),
    ],
)
def test_a_registry_that_is_away_is_waited_for(message, wait):
    stuck = container(waiting={"reason": "ErrImagePull", "message": message})
    assert only(Snapshot(RUNNING, [pod(containers=[stuck])], now=NOW)).give_up_after_s == seconds(wait)


def test_a_webhook_that_is_away_is_waited_for():
    away = 'Internal error: failed calling webhook "x": connect: connection refused; admission webhook'
    refused = event("RayCluster", "r1-x", "FailedToCreateHeadPod", away)
    assert only(Snapshot(RUNNING, [], [refused], now=NOW)).give_up_after_s == seconds("webhook")


def test_a_node_that_is_being_created_is_waited_for():
    comes = event("Pod", "r1-x-worker", "TriggeredScaleUp", "pod triggered scale-up: [{gpu-pool 0->1}]", "Normal")
    problem = only(Snapshot(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], [comes], now=NOW))
    assert "a node is being created for it (pod triggered scale-up" in problem.problem
    assert problem.give_up_after_s is None


def test_another_pods_node_does_not_help():
    comes = event("Pod", "r2-x-worker", "TriggeredScaleUp", "pod triggered scale-up", "Normal")
    problem = only(Snapshot(RUNNING, [pod("worker", "gpu", conditions=[unschedulable(NO_GPU)])], [comes], now=NOW))
    assert problem.give_up_after_s is not None


@pytest.mark.parametrize("case", [case for case in CASES if "kubectl" in sentence(*told(CASES[case][0]))])
def test_a_command_that_is_pasted_reaches_this_cluster(case):
    here = replace(CASES[case][0], kubectl="kubectl --context c -n team")
    assert "kubectl --context c -n team " in only(here).fix


def test_a_run_that_starts_as_it_should_has_no_problem():
    starting = pod(containers=[container(waiting={"reason": "ContainerCreating"})])
    running = pod("worker", "cpu", phase="Running", containers=[container("worker", running={})])
    probes = event("Pod", "r1-x-head", "Unhealthy", "Startup probe failed: connection refused")
    assert problems(Snapshot(RUNNING, [starting, running], [probes], now=NOW)) == []


@pytest.mark.parametrize(("age_s", "count"), [(11.0, 0), (12.0, 0), (13.0, 1)])
def test_an_operator_has_twelve_seconds_to_pick_up_a_run(age_s, count):
    made = diagnose.timestamp(STAMP)
    assert len(problems(Snapshot(job(), now=made + age_s))) == count


def test_an_event_shows_that_an_operator_is_there():
    seen = event("RayJob", "r1", "CreatedRayCluster", "created", "Normal")
    assert problems(Snapshot(job(), [], [seen], now=NOW)) == []


@pytest.mark.parametrize(("age_s", "count"), [(89.0, 1), (90.0, 1), (91.0, 0)])
def test_an_event_counts_for_ninety_seconds(age_s, count):
    refused = event("RayCluster", "r1-x", "FailedToCreateHeadPod", QUOTA)
    assert len(problems(Snapshot(RUNNING, [], [refused], now=diagnose.timestamp(LATE) + age_s))) == count


def test_a_normal_event_is_no_problem():
    assert problems(Snapshot(RUNNING, [], [event("RayCluster", "r1-x", "Created", QUOTA, "Normal")], now=NOW)) == []


def test_the_same_problem_of_several_pods_is_one():
    pods = [pod(containers=[container(waiting={"reason": "ErrImageNeverPull", "message": NEVER})]) for _ in range(3)]
    assert len(problems(Snapshot(RUNNING, pods, now=NOW))) == 1


def test_of_several_pods_with_a_problem_the_head_is_named():
    stuck = {"reason": "ErrImageNeverPull", "message": NEVER}
    pods = [pod(kind, containers=[container(kind, waiting=stuck)]) for kind in ("worker", "head")]
    assert "for head pod r1-x-head" in only(Snapshot(RUNNING, pods, now=NOW)).problem


def test_the_most_hopeless_problem_comes_first():
    pods = [
        pod(containers=[container(waiting={"reason": "ErrImageNeverPull", "message": NEVER})]),
        pod("worker", "gpu", conditions=[unschedulable(NO_GPU)]),
    ]
    found = problems(Snapshot(RUNNING, pods, now=NOW))
    assert [problem.about for problem in found] == ["image", "room for worker"]


def test_a_pod_that_was_scheduled_lacks_no_room():
    scheduled = {"type": "PodScheduled", "status": "True"}
    assert problems(Snapshot(RUNNING, [pod(conditions=[scheduled])], now=NOW)) == []


def test_a_long_message_is_shortened():
    refused = event("Job", "r1", "FailedCreate", f"admission webhook denied: {'x' * 1000}")
    assert len(only(Snapshot(RUNNING, [], [refused], now=NOW)).problem) < 400


def test_a_device_is_counted_on_the_nodes_that_offer_it():
    nodes = [node(**{"nvidia.com/gpu": "2"}), node(**{"nvidia.com/gpu": "0"}), node(cpu="4")]
    assert diagnose.nodes_with("nvidia.com/gpu", nodes) == 1
    assert diagnose.nodes_with("nvidia.com/gpu", []) == 0
    assert diagnose.nodes_with("nvidia.com/gpu", None) is None


def test_an_event_without_a_time_was_never_seen():
    assert diagnose.seen_at({}) == 0.0
    assert diagnose.seen_at({"eventTime": "2026-11-30T00:53:20.000000Z"}) == diagnose.timestamp(STAMP)


@pytest.mark.parametrize("odd", [None, {}, []])
def test_missing_parts_of_a_pod_are_no_error(odd):
    bare = {"metadata": {"name": "p", "labels": None}, "spec": {"containers": []}, "status": {}}
    bare["status"] = {"containerStatuses": odd or None, "conditions": odd or None}
    assert problems(Snapshot(RUNNING, [bare], now=NOW)) == []
