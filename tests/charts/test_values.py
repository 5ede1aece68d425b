"""The values of the chart `training`: all documented, all used, and none that cannot be right."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.charts import ROOT, clusters, generate, leaves, render, values_of

KITCHEN_SINK = values_of("kitchen-sink")
DEFAULTS = yaml.safe_load((ROOT / "helm" / "training" / "values.yaml").read_text())
SCHEMA = json.loads((ROOT / "helm" / "training" / "values.schema.json").read_text())
# Free maps: their keys are the user's, so any key is right.
FREE = {
    "affinity",
    "annotations",
    "podLabels",
    "podAnnotations",
    "nodeSelector",
    "rayLabels",
    "rayResources",
    "quota",
    "env",
}
# Values that show only beside another one: what a test sets or takes away first.
BESIDE = {
    ("image", "tag"): {("image", "digest"): None},
    ("recovery", "terminationGracePeriodSeconds"): {("groupDefaults", "terminationGracePeriodSeconds"): None},
}
# Values whose kitchen sink cannot differ from the default in effect: what they are changed to instead.
OTHERWISE = {
    ("kuberayVersion",): "1.7.0",
    ("security", "seccompProfile"): None,
    ("network", "enabled"): False,
    ("storage", "uri"): "s3://other",
    ("head", "price", "perHour"): 0.2,  # without it, the other prices alone are refused
    ("groupDefaults", "price", "perHour"): 0.2,
}
# Required where the value stands; without it Helm refuses the values, so it is changed instead.
REQUIRED = (
    {("workerGroups", name, "maxReplicas"): 9 for name in KITCHEN_SINK["workerGroups"]}
    | {
        ("groupDefaults", "accelerator", "resource"): "nvidia.com/gpu",
        ("groupDefaults", "accelerator", "count"): 3,
        ("workerGroups", "gpu", "accelerator", "count"): 3,
    }
    | {
        ("workerGroups", "tpu", "nodeSelector", f"cloud.google.com/gke-tpu-{key}"): "x"
        for key in ("accelerator", "topology")
    }
)


def changed(values: dict[str, Any], path: tuple[str, ...], value: Any = None) -> dict[str, Any]:
    """The values with one of them set, or taken away."""
    values = copy.deepcopy(values)
    *above, last = path
    node = values
    for key in above:
        node = node.setdefault(key, {})
    if value is None and path not in OTHERWISE:
        del node[last]
    else:
        node[last] = value
    return values


def objects_in(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Path of each mapping whose keys the schema names."""
    if isinstance(values, dict) and (not path or path[-1] not in FREE):
        yield path
        for key, value in values.items():
            yield from objects_in(value, (*path, key))


def properties(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Path of each key that the schema names, but for those below `train` and in lists."""
    if "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].removeprefix("#/$defs/")]
    forbidden = {
        key for part in node.get("allOf", []) for key, child in part.get("properties", {}).items() if not child
    }
    for part in node.get("allOf", []):
        yield from (found for found in properties(part, path) if found[len(path)] not in forbidden)
    for key, child in node.get("properties", {}).items():
        if child is not False and path != ("train",):
            yield (*path, key)
            yield from properties(child, (*path, key))


def test_the_kitchen_sink_sets_every_key_of_values_yaml():
    # mappings that are free or empty in values.yaml count as one key
    missing = []
    for path in leaves({key: value for key, value in DEFAULTS.items() if key not in ("train", "workerGroups")}):
        node: Any = KITCHEN_SINK
        for key in path:
            node = node.get(key, {}) if isinstance(node, dict) else {}
        if node in ({}, []):
            missing.append(".".join(path))
    assert missing == []


def test_the_kitchen_sink_sets_every_key_of_the_schema():
    groups = KITCHEN_SINK["workerGroups"].values()
    seen = {".".join(path) for path in objects_in(KITCHEN_SINK)} | {".".join(path) for path in leaves(KITCHEN_SINK)}
    assert [path for path in map(".".join, properties(SCHEMA)) if not any(s.startswith(path) for s in seen)] == []
    in_groups = {key for group in groups for key in group}
    assert in_groups == set(SCHEMA["$defs"]["group"]["properties"])


@pytest.mark.parametrize("chart", ["training", "monitoring"])
def test_every_key_of_values_yaml_is_explained_right_above_it(chart):
    unexplained, last = [], ""
    for line in (ROOT / "helm" / chart / "values.yaml").read_text().splitlines():
        # a section that only groups keys is explained by them
        if re.match(r"(  )?\w+: ?", line) and not re.fullmatch(r"\w+:", line) and not last.lstrip().startswith("#"):
            unexplained.append(line)
        last = line
    assert unexplained == []


def test_values_yaml_names_every_key_of_the_schema():
    assert set(DEFAULTS) == set(SCHEMA["properties"])
    assert set(DEFAULTS["groupDefaults"]) == set(SCHEMA["$defs"]["group"]["properties"]) - {"maxReplicas"}


# the currency is one for all prices: tests/charts/test_training.py changes it
@pytest.mark.parametrize("path", [path for path in leaves(KITCHEN_SINK) if path[-1] != "currency"], ids=".".join)
def test_every_value_changes_what_is_rendered(path):
    values = KITCHEN_SINK
    for other, value in BESIDE.get(path, {}).items():
        values = changed(values, other, value)
    before = render(values)
    current = values
    for key in path:
        current = current[key]
    if path in OTHERWISE | REQUIRED:
        after = render(changed(values, path, (OTHERWISE | REQUIRED)[path]))
    elif isinstance(current, bool):
        after = render(changed(values, path, not current))
    else:
        after = render(changed(values, path))
    assert before != after


@pytest.mark.parametrize("path", list(objects_in(KITCHEN_SINK)), ids=lambda path: ".".join(path) or "top")
def test_a_key_with_a_typo_is_refused_wherever_it_stands(path, refused):
    said = refused(changed(KITCHEN_SINK, (*path, "mistyped"), "x"))
    assert "mistyped" in said


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("train", "epochs"), 0),
        (("train", "workers"), "2 to 4"),
        (("train", "model"), {"name": "transformer"}),
        (("workerGroups", "unbounded"), {}),
        (("workerGroups", "cpu", "maxReplicas"), 2147483647),
        (("workerGroups", "CPU"), {"maxReplicas": 1}),
        (("workerGroups", "cpu", "resources"), {"limits": {"cpu": "many"}}),
        (("groupDefaults", "maxReplicas"), 4),
        (("storage", "uri"), "bucket/team"),
        (("storage", "env"), {"AWS_SECRET_ACCESS_KEY": "hunter2"}),
        (("job", "name"), "7-days"),
        (("recovery", "terminationGracePeriodSeconds"), 5),
        (("network", "dns"), {"to": []}),
        (("network", "operator"), {"from": []}),
        (("image", "digest"), "latest"),
        (("security", "seccompProfile"), "Unconfined"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_a_value_that_cannot_be_right_is_refused(path, value, refused):
    said = refused(changed(values_of("defaults"), path, value))
    assert any(word in said for word in [path[-1], *(value if isinstance(value, dict) else [])])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "storage.uri: say where runs are kept"),
        ({"workerGroups": {"cpu": {"maxReplicas": 1, "minReplicas": 2}}}, "minReplicas is above maxReplicas 1"),
        ({"workerGroups": {"cpu": {"maxReplicas": 1, "replicas": 2}}}, "replicas 2 is not between"),
        ({"workerGroups": {"gpu": {"maxReplicas": 1, "accelerator": {"count": 0}}}}, "give a resource and a count"),
        (
            {
                "workerGroups": {
                    "trn": {"maxReplicas": 1, "accelerator": {"resource": "aws.amazon.com/neuron", "count": 1}}
                }
            },
            "Ray has no name for aws.amazon.com/neuron",
        ),
        ({"kueue": {"queueName": "team"}}, "Kueue starts as many workers"),
    ],
    ids=["storage", "min-max", "replicas", "accelerator", "neuron", "kueue"],
)
def test_values_that_contradict_each_other_are_refused_in_a_sentence(values, sentence, refused):
    assert sentence in refused(values if "uri" in sentence else {**values_of("defaults"), **values})


def test_a_tpu_group_must_say_its_topology(refused):
    group = {"maxReplicas": 1, "accelerator": {"resource": "google.com/tpu", "count": 4}}
    assert "nodeSelector" in refused(changed(values_of("defaults"), ("workerGroups", "tpu"), group))


def test_a_large_number_stays_a_whole_number():
    # Helm reads numbers as floats, and prints those from a million on with an exponent
    month = 30 * 24 * 3600
    times = ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "ttlSecondsAfterFinished", "lastScrapeSeconds")
    job = dict.fromkeys(times, month)
    values = {
        **values_of("defaults"),
        "job": job,
        "autoscaler": {"idleTimeoutSeconds": month},
        "groupDefaults": {"idleTimeoutSeconds": month, "tmp": 10737418240, "shm": 1073741824},
        "head": {"resources": {"limits": {"memory": 4294967296}}},
        "recovery": {"terminationGracePeriodSeconds": month, "nodeLossSeconds": month},
        "security": {"runAsUser": 1000650000},
    }
    text = generate.render(ROOT / "helm" / "training", values, "training")
    assert re.findall(r"[0-9.]+e[+][0-9]+", text) == []
    assert text.count(str(month)) > len(job)
    for line in ("runAsUser: 1000650000", "sizeLimit: 10737418240", "sizeLimit: 1073741824", "memory: 4294967296"):
        assert line in text


def test_a_group_of_null_is_removed():
    values = {**values_of("defaults"), "workerGroups": {"gpu": None}}
    assert [group["groupName"] for group in clusters(render(values))[0]["workerGroupSpecs"]] == ["cpu"]


@pytest.mark.parametrize("name", ["7", "Team", "a" * 41])
def test_a_release_name_that_kuberay_would_refuse_is_refused_at_once(name):
    with pytest.raises(generate.RenderError, match=r"release name|invalid release name|Release name"):
        generate.render(ROOT / "helm" / "training", values_of("defaults"), "training", name)
