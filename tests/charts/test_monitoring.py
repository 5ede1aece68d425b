"""The chart `monitoring`: what Prometheus reads is what training offers."""

import re

import pytest
import yaml
from support import schemas
from support.charts import ROOT, clusters, leaves, one, render, values_of

KITCHEN_SINK = yaml.safe_load((ROOT / "tests" / "charts" / "kitchen-sink" / "monitoring.yaml").read_text())
DEFAULTS = yaml.safe_load((ROOT / "helm" / "monitoring" / "values.yaml").read_text())


def monitors(values):
    return [manifest for manifest in render(values, "monitoring") if manifest["kind"] == "PodMonitor"]


@pytest.mark.parametrize("values", [{}, KITCHEN_SINK], ids=["defaults", "kitchen-sink"])
def test_every_object_is_valid(values):
    try:
        assert [line for manifest in render(values, "monitoring") for line in schemas.errors(manifest)] == []
    except schemas.NoSchemaError as reason:
        pytest.skip(str(reason))


def test_the_kitchen_sink_sets_every_key_to_another_value():
    assert set(KITCHEN_SINK) == set(DEFAULTS)
    assert [key for key in DEFAULTS if KITCHEN_SINK[key] == DEFAULTS[key]] == []


@pytest.mark.parametrize("path", list(leaves(KITCHEN_SINK)), ids=".".join)
def test_every_value_changes_what_is_rendered(path):
    without = {key: value for key, value in KITCHEN_SINK.items() if key != path[0]}
    assert render(without, "monitoring") != render(KITCHEN_SINK, "monitoring")


@pytest.mark.parametrize(
    "values", [{"namespace": ["a"]}, {"interval": "soon"}, {"dropLabels": ["a-b"]}, {"namespaces": [""]}], ids=str
)
def test_a_typo_is_refused(values, refused):
    assert next(iter(values)) in refused(values, "monitoring")


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
            assert rules["labeldrop"].fullmatch("SessionName")
            assert rules["drop"].fullmatch("ray_grpc_server_req_process_time_ms_bucket")
            for label in ("WorkerId", "pod", "run", "rank"):
                assert not rules["labeldrop"].fullmatch(label)
            for series in ("ray_train_controller_state", "ray_node_gpus_utilization", "ray_train_loss"):
                assert not rules["drop"].fullmatch(series)


def test_each_series_says_whose_pod_it_is_of():
    for monitor in monitors({}):
        assert monitor["spec"]["podTargetLabels"] == ["app.kubernetes.io/instance", "ray.io/cluster", "ray.io/group"]


def test_all_namespaces_are_read_unless_some_are_named():
    by_default, named = (monitors(values)[0]["spec"]["namespaceSelector"] for values in ({}, KITCHEN_SINK))
    assert by_default == {"any": True}
    assert named == {"matchNames": ["team-a", "team-b"]}
