"""The chart `monitoring`: what Prometheus reads is what training offers."""

import copy
import json
import re

import pytest
import yaml
from support import schemas
from support.charts import ROOT, clusters, leaves, one, render, values_of

KITCHEN_SINK = yaml.safe_load((ROOT / "tests" / "charts" / "kitchen-sink" / "monitoring.yaml").read_text())
DEFAULTS = yaml.safe_load((ROOT / "helm" / "monitoring" / "values.yaml").read_text())


@pytest.mark.parametrize("values", [{}, KITCHEN_SINK], ids=["defaults", "kitchen-sink"])
def test_every_object_is_valid(values):
    try:
        assert [line for manifest in render(values, "monitoring") for line in schemas.errors(manifest)] == []
    except schemas.NoSchemaError as reason:
        pytest.skip(str(reason))


def monitors(values):
    """The monitors among all that the chart makes."""
    return [manifest for manifest in render(values, "monitoring") if manifest["kind"] == "PodMonitor"]


def at(values, path):
    """The value at a path."""
    for key in path:
        values = values[key]
    return values


def test_the_kitchen_sink_sets_every_key_to_another_value():
    same = [path for path in leaves(DEFAULTS) if at(KITCHEN_SINK, path) == at(DEFAULTS, path)]
    assert same == [path for path in leaves(DEFAULTS) if path[-1] == "enabled"]  # without them the others do nothing


@pytest.mark.parametrize("path", list(leaves(KITCHEN_SINK)), ids=".".join)
def test_every_value_changes_what_is_rendered(path):
    changed = copy.deepcopy(KITCHEN_SINK)
    if path[-1] == "enabled":
        at(changed, path[:-1])["enabled"] = False
    else:
        del at(changed, path[:-1])[path[-1]]
    assert render(changed, "monitoring") != render(KITCHEN_SINK, "monitoring")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"namespace": ["a"]}, "namespace"),
        ({"interval": "soon"}, "interval"),
        ({"dropLabels": ["a-b"]}, "dropLabels"),
        ({"namespaces": [""]}, "namespaces"),
        ({"alerts": {"disabled": ["TrainingStaled"]}}, "TrainingStalled"),
        ({"alerts": {"override": {"TrainingStaled": {"for": "1m"}}}}, "TrainingStaled"),
        ({"alerts": {"override": {"TrainingSlow": {"after": "1m"}}}}, "after"),
        ({"alerts": {"override": {"TrainingSlow": {"for": "1 minute"}}}}, "for"),
        ({"alerts": {"thresholds": {"stalled": "1m"}}}, "stalled"),
        ({"alerts": {"thresholds": {"stalledAfter": "soon"}}}, "stalledAfter"),
        ({"alerts": {"thresholds": {"slowShare": 50}}}, "slowShare"),
        ({"alerts": {"labels": {"severity": "page"}}}, "severity"),
        ({"alerts": {"clusterLabel": ""}}, "clusterLabel"),
        ({"tests": {"prometheusUrl": "prometheus:9090"}}, "prometheusUrl"),
    ],
    ids=json.dumps,
)
def test_a_typo_is_refused(values, named, refused):
    assert named in refused(values, "monitoring")


@pytest.mark.parametrize("component", ["head", "worker"])
def test_monitors_select_every_metrics_port_of_training(component):
    spec = clusters(render(values_of("defaults")))[0]
    group = spec["headGroupSpec"] if component == "head" else spec["workerGroupSpecs"][0]
    monitor = one(render({}, "monitoring"), "PodMonitor", f"-{component}")["spec"]
    labels = group["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]}
    scraped = {ports[endpoint["port"]] for endpoint in monitor["podMetricsEndpoints"]}
    assert scraped == ({8080, 44217, 44227} if component == "head" else {8080})
    assert {name for name in ports if "metrics" in name} == {e["port"] for e in monitor["podMetricsEndpoints"]}


def test_monitors_of_heads_do_not_select_workers_nor_the_other_way_round():
    selectors = [m["spec"]["selector"]["matchLabels"] for m in monitors({})]
    assert len({selector["app.kubernetes.io/component"] for selector in selectors}) == len(selectors) == 2


def test_noise_is_dropped_and_what_tells_processes_apart_stays():
    for monitor in monitors({}):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            rules = {rule["action"]: re.compile(rule["regex"]) for rule in endpoint["metricRelabelings"]}
            assert rules["labeldrop"].fullmatch("Version")
            assert rules["drop"].fullmatch("ray_grpc_server_req_process_time_ms_bucket")
            for label in ("WorkerId", "SessionName", "pod", "run", "rank"):
                assert not rules["labeldrop"].fullmatch(label)  # Ray's own dashboards filter by SessionName
            for series in ("ray_train_controller_state", "ray_node_gpus_utilization", "ray_train_loss"):
                assert not rules["drop"].fullmatch(series)


def test_each_series_says_whose_pod_it_is_of():
    for monitor in monitors({}):
        assert monitor["spec"]["podTargetLabels"] == ["app.kubernetes.io/instance", "ray.io/cluster", "ray.io/group"]


def test_all_namespaces_are_read_unless_some_are_named():
    by_default, named = (monitors(values)[0]["spec"]["namespaceSelector"] for values in ({}, KITCHEN_SINK))
    assert by_default == {"any": True}
    assert named == {"matchNames": ["team-a", "team-b"]}


def test_no_pod_can_say_that_its_series_are_of_another_namespace():
    # that is what honorLabels would allow; the operator may, as its series are about others' jobs
    for monitor in monitors({}):
        assert not any(endpoint.get("honorLabels") for endpoint in monitor["spec"]["podMetricsEndpoints"])
    operator = yaml.safe_load((ROOT / "k8s" / "platform" / "kuberay-operator.yaml").read_text())
    assert operator["metrics"]["serviceMonitor"] == {"enabled": True, "honorLabels": True}
