"""KubeRay's traps: what its operator and Ray's autoscaler would accept from the chart, and get wrong."""

import importlib
import re

import pytest
from ray.dashboard.modules.reporter import reporter_consts
from support.charts import clusters, env, job, one, pods, render, values_of

MANY = 1000
REPORTER = "REPORTER_UPDATE_INTERVAL_MS"  # how often Ray's agent reports CPU, memory, disk and network


def groups(manifests):
    """The worker groups of all clusters."""
    return [group for spec in clusters(manifests) for group in spec["workerGroupSpecs"]]


def standing(**values):
    """The objects of a release with a standing cluster."""
    return render({**values_of("defaults"), "cluster": {"enabled": True}, **values})


# ---- autoscaling -----------------------------------------------------------------------------------------------------


def test_the_autoscaler_is_version_2_in_writing_and_set_nowhere_else(manifests):
    for spec in clusters(manifests):
        if spec["enableInTreeAutoscaling"]:
            assert spec["autoscalerOptions"]["version"] == "v2"
    for _, template in pods(manifests):
        assert "RAY_enable_autoscaler_v2" not in env(template)


def test_ray_pods_say_no_restart_policy_since_version_2_allows_but_one(manifests):
    for name, template in pods(manifests):
        assert name == "submitter" or "restartPolicy" not in template["spec"]


def test_every_group_is_bounded_and_its_counts_are_in_order(manifests):
    for group in groups(manifests):
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] <= MANY


def test_accelerator_groups_start_at_zero_and_are_declared_to_ray(environment):
    devices = {"nvidia.com/gpu": "GPU", "google.com/tpu": "TPU"}
    found = 0
    for group in groups(render(values_of(environment))):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for device in set(limits) & set(devices):
            found += 1
            assert group["resources"][devices[device]] == str(limits[device])
            assert group["minReplicas"] == 0
    assert found


@pytest.mark.parametrize(
    ("device", "count", "more", "expected"),
    [
        ("nvidia.com/gpu", 2, {}, {"GPU": "2"}),
        ("amd.com/gpu", 1, {}, {"GPU": "1"}),
        ("nvidia.com/mig-1g.5gb", 1, {}, {"GPU": "1"}),
        ("aws.amazon.com/neuroncore", 4, {}, {"neuron_cores": "4"}),
        ("aws.amazon.com/neuron", 1, {"rayResources": {"neuron_cores": "2"}}, {"neuron_cores": "2"}),
        (
            "google.com/tpu",
            4,
            {
                "numOfHosts": 4,
                "nodeSelector": {
                    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
                    "cloud.google.com/gke-tpu-topology": "4x4",
                },
            },
            {"TPU": "4"},
        ),
    ],
)
def test_any_accelerator_is_a_resource_with_its_taint_tolerated(device, count, more, expected):
    group = {"maxReplicas": 2, "accelerator": {"resource": device, "count": count}, **more}
    made = next(
        g for g in groups(render({**values_of("defaults"), "workerGroups": {"x": group}})) if g["groupName"] == "x"
    )
    resources = made["template"]["spec"]["containers"][0]["resources"]
    assert made["resources"] == expected
    assert resources["limits"][device] == resources["requests"][device] == count
    assert {"key": device, "operator": "Exists", "effect": "NoSchedule"} in made["template"]["spec"]["tolerations"]
    assert made["numOfHosts"] == more.get("numOfHosts", 1)


def test_ray_resources_stand_in_one_place(manifests):
    for spec in clusters(manifests):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            given = {"num-cpus", "num-gpus", "memory", "resources"} & set(group["rayStartParams"])
            assert not (given and group.get("resources"))


def test_labels_are_never_a_start_parameter(manifests):
    for spec in clusters(manifests):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            assert "labels" not in group["rayStartParams"]


def test_every_ray_container_has_cpu_and_memory_limits(manifests):
    for name, template in pods(manifests):
        assert {"cpu", "memory"} <= set(template["spec"]["containers"][0]["resources"]["limits"]), name


def test_the_head_runs_no_training(manifests):
    for spec in clusters(manifests):
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_groups_are_ordered_by_priority():
    wanted = {"spot": {"maxReplicas": 1, "priority": 10, "spot": True}, "also": {"maxReplicas": 1, "priority": 10}}
    before, after = (
        groups(render({**values_of("defaults"), "workerGroups": wanted, "kuberayVersion": version}))
        for version in ("1.6.2", "1.7.0")
    )
    # with equal priorities Ray takes the first that fits, so the order counts on both
    assert [g["groupName"] for g in before] == [g["groupName"] for g in after] == ["also", "spot", "cpu", "gpu"]
    assert [g.get("priority") for g in before] == [None] * 4
    assert [g["priority"] for g in after] == [10, 10, 0, 0]


def test_spot_is_a_label_that_ray_can_select_by():
    wanted = {"spot": {"maxReplicas": 1, "spot": True}}
    made = groups(render({**values_of("defaults"), "workerGroups": wanted}))
    markets = {group["groupName"]: group["labels"]["ray.io/market-type"] for group in made}
    assert markets == {"cpu": "on-demand", "gpu": "on-demand", "spot": "spot"}


@pytest.mark.parametrize("cloud", ["gke", "eks", "aks"])
def test_each_cloud_has_spot_gpus_before_others_and_on_nodes_of_their_own(cloud):
    first, *others = groups(render(values_of(cloud)))
    assert first["labels"]["ray.io/market-type"] == "spot"
    selectors = [group["template"]["spec"].get("nodeSelector") for group in [first, *others]]
    assert selectors[0]
    assert selectors[0] not in selectors[1:]


def test_workers_go_to_different_nodes_if_they_can():
    def constraint(spread):
        group = {"maxReplicas": 1, "spread": spread}
        made = groups(render({**values_of("defaults"), "workerGroups": {"cpu": group}}))[0]["template"]["spec"]
        return [c["whenUnsatisfiable"] for c in made.get("topologySpreadConstraints", [])]

    assert constraint("preferred") == ["ScheduleAnyway"]
    assert constraint("required") == ["DoNotSchedule"]
    assert constraint("none") == []


# ---- surviving -------------------------------------------------------------------------------------------------------


def test_grace_periods_are_longer_than_rays_drain(manifests):
    for name, template in pods(manifests):
        if name == "head":
            assert template["spec"]["terminationGracePeriodSeconds"] == 30
        elif name != "submitter":
            drain = int(env(template)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            assert drain < template["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("grace", "drain"), [(10, 5), (15, 7), (30, 15), (60, 30), (90, 60), (120, 90)])
def test_ray_drains_for_what_a_short_notice_leaves(grace, drain):
    groups = {"cpu": {"maxReplicas": 2, "terminationGracePeriodSeconds": grace}}
    templates = dict(pods(render({**values_of("defaults"), "workerGroups": groups})))
    assert templates["cpu"]["spec"]["terminationGracePeriodSeconds"] == grace
    assert env(templates["cpu"])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(drain)
    assert templates["gpu"]["spec"]["terminationGracePeriodSeconds"] == 90  # of recovery


# What says which pod it is, and what only the driver needs.
OF_THE_POD = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "TRAINER_GROUP", "TRAINER_SPOT", "TRAINER_INSTANCE_TYPE"}
OF_THE_DRIVER = {"TRAINER_PRICES", "TRAINER_BUDGET", "TRAINER_BUDGET_STOP"}


def test_all_ray_pods_have_the_same_environment(manifests):
    environments = [
        {key: value for key, value in env(template).items() if key not in OF_THE_POD | OF_THE_DRIVER}
        for name, template in pods(manifests)
        if name != "submitter"
    ]
    assert all(environment == environments[0] for environment in environments)
    assert {"RAY_health_check_period_ms", "RAY_health_check_timeout_ms", "RAY_health_check_failure_threshold"} <= set(
        environments[0]
    )


def test_the_environment_is_what_was_measured_to_help():
    _, template = next(pods(render(values_of("defaults"))))
    assert env(template) | {
        "HOME": "/tmp",
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_metrics_report_interval_ms": "2000",
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "10",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_USAGE_STATS_ENABLED": "0",
    } == env(template)


def test_ray_reports_its_nodes_before_it_forgets_them(manifests, monkeypatch):
    # a gauge that was not set for two report intervals is gone from /metrics, and from the boards
    for name, template in pods(manifests):
        if name != "submitter":
            every, forgotten = (int(env(template)[key]) for key in (REPORTER, "RAY_metrics_report_interval_ms"))
            assert every <= forgotten
    monkeypatch.setenv(REPORTER, "1234")
    assert importlib.reload(reporter_consts).REPORTER_UPDATE_INTERVAL_MS == 1234  # Ray reads it
    monkeypatch.undo()
    importlib.reload(reporter_consts)


def test_a_lost_node_is_given_up_before_kubernetes_own_five_minutes(manifests):
    for name, template in pods(manifests):
        if name != "submitter":
            given_up = {t["key"]: t.get("tolerationSeconds") for t in template["spec"]["tolerations"]}
            assert given_up["node.kubernetes.io/unreachable"] <= 60
            assert given_up["node.kubernetes.io/not-ready"] <= 60


def test_retries_come_before_a_new_cluster_and_have_deadlines(manifests):
    spec = job(manifests)["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["submitterConfig"]["backoffLimit"] > spec["backoffLimit"] >= 1
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"


def test_the_cluster_goes_with_the_job_but_not_before_the_last_scrape(manifests):
    spec = job(manifests)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] >= 60
    assert "deletionStrategy" not in spec


def test_names_are_short_enough_for_what_kuberay_appends(manifests):
    for manifest in manifests:
        if manifest["kind"] in ("RayJob", "RayCluster"):
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", manifest["metadata"]["name"])


def test_budgets_protect_runs_but_not_the_standing_head():
    manifests = standing()
    heads, workers = one(manifests, "PodDisruptionBudget", "-head"), one(manifests, "PodDisruptionBudget", "-worker")

    def covered(budget, template):
        labels = template["metadata"]["labels"]
        return all(labels.get(k) == v for k, v in budget["spec"]["selector"]["matchLabels"].items())

    of_job, of_standing = clusters(manifests)
    assert covered(heads, of_job["headGroupSpec"]["template"])
    assert not covered(heads, of_standing["headGroupSpec"]["template"])
    for spec in (of_job, of_standing):
        assert covered(workers, spec["workerGroupSpecs"][0]["template"])
    for budget in (heads, workers):
        # of pods that a custom resource owns, only an absolute minAvailable can be said
        assert isinstance(budget["spec"]["minAvailable"], int)
        assert "maxUnavailable" not in budget["spec"]
        assert budget["spec"]["minAvailable"] > 2 * MANY
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_worker_waits_for_the_head_without_starting_python():
    for group in groups(render(values_of("defaults"))):
        (wait,) = group["template"]["spec"]["initContainers"]
        command = " ".join(wait["command"] + wait["args"])
        assert "/dev/tcp/$FQ_RAY_IP/6379" in command
        assert "python" not in command
        assert {"requests", "limits"} <= set(wait["resources"])  # a quota would refuse a container without


# ---- the token, the standing cluster, Kueue --------------------------------------------------------------------------


def test_token_authentication_uses_a_lasting_secret(manifests):
    for spec in clusters(manifests):
        assert spec["authOptions"]["mode"] == "token"
        assert spec["authOptions"]["secretName"]
        assert "enableK8sTokenAuth" not in spec["authOptions"]
        assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)


def test_the_token_is_long_made_by_the_chart_and_its_key_is_kuberays():
    manifests = render(values_of("defaults"))
    secret = one(manifests, "Secret")
    assert secret["metadata"]["name"] == clusters(manifests)[0]["authOptions"]["secretName"]
    assert len(secret["data"]["auth_token"]) == 64  # 48 characters in base64


def test_a_secret_of_ones_own_is_used_and_none_is_made():
    manifests = render({**values_of("defaults"), "auth": {"existingSecret": "mine"}})
    assert [m for m in manifests if m["kind"] == "Secret"] == []
    assert clusters(manifests)[0]["authOptions"]["secretName"] == "mine"


def test_a_standing_job_has_no_field_that_kuberay_refuses():
    manifests = standing(kueue={"queueName": "team"}, workerGroups={"cpu": {"maxReplicas": 2, "replicas": 1}})
    (found,) = [m for m in manifests if m["kind"] == "RayJob" and "clusterSelector" in m["spec"]]
    name = one(manifests, "RayCluster")["metadata"]["name"]
    assert found["spec"]["clusterSelector"] == {"ray.io/cluster": name}
    refused = {"rayClusterSpec", "backoffLimit", "suspend", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    assert not refused & set(found["spec"])
    assert "kueue.x-k8s.io/queue-name" not in found["metadata"]["labels"]
    assert found["spec"]["submitterPodTemplate"] == job(manifests)["spec"]["submitterPodTemplate"]


def test_kueue_admits_a_fixed_number_of_pods():
    values = {"kueue": {"queueName": "team"}, "workerGroups": {"cpu": {"maxReplicas": 4, "replicas": 2}}}
    found = job(render({**values_of("defaults"), **values}))
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    spec = found["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in spec
    assert [group["replicas"] for group in spec["workerGroupSpecs"]] == [2, 0]
    assert not any("idleTimeoutSeconds" in group or "priority" in group for group in spec["workerGroupSpecs"])
    assert len(spec["workerGroupSpecs"]) <= 7  # Kueue takes eight kinds of pods, and the head is one
    assert found["spec"]["shutdownAfterJobFinishes"] is True


def test_pods_keep_the_name_that_kuberays_head_service_selects(manifests):
    for _, template in pods(manifests):
        assert not {"app.kubernetes.io/name", "app.kubernetes.io/created-by"} & set(template["metadata"]["labels"])
