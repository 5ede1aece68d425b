"""The chart `training`: its values, its objects, and that nothing is written twice."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemas
import yaml
from charts import ROOT, clusters, env, generate, job, leaves, one, render, values_of

KITCHEN_SINK = values_of("kitchen-sink")
DEFAULTS = yaml.safe_load((ROOT / "helm" / "training" / "values.yaml").read_text())
SCHEMA = json.loads((ROOT / "helm" / "training" / "values.schema.json").read_text())
RECIPES = sorted((ROOT / "trainer" / "recipes").glob("*.yaml"))
# Free maps: their keys are the user's, so any key is right.
FREE = {"annotations", "podLabels", "podAnnotations", "nodeSelector", "rayLabels", "rayResources", "quota", "env"}
# Values that show only beside another one: what a test sets or takes away first.
BESIDE = {("image", "tag"): {("image", "digest"): None}}
# Values whose kitchen sink cannot differ from the default in effect: what they are changed to instead.
OTHERWISE = {
    ("kuberayVersion",): "1.7.0",
    ("security", "seccompProfile"): None,
    ("network", "enabled"): False,
    ("storage", "uri"): "s3://other",
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


# ---- every object is valid -------------------------------------------------------------------------------------------


def test_every_object_of_every_environment_is_valid(manifests):
    try:
        assert [line for manifest in manifests for line in schemas.errors(manifest)] == []
    except schemas.NoSchemaError as reason:
        pytest.skip(str(reason))


def test_a_field_that_kuberay_does_not_know_would_be_found():
    manifest = job(render(KITCHEN_SINK))
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagePull"] = "x"
    try:
        found = schemas.errors(manifest)
    except schemas.NoSchemaError as reason:
        pytest.skip(str(reason))
    assert len(found) == 1
    assert "imagePull" in found[0]


def test_a_field_that_kubernetes_does_not_know_would_be_found():
    quota = one(render(KITCHEN_SINK), "ResourceQuota")
    quota["spec"]["heard"] = {}
    assert "heard" in " ".join(schemas.errors(quota))


# ---- values: all documented, all used, none too many -----------------------------------------------------------------


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


def test_values_yaml_names_every_key_of_the_schema():
    assert set(DEFAULTS) == set(SCHEMA["properties"])
    assert set(DEFAULTS["groupDefaults"]) == set(SCHEMA["$defs"]["group"]["properties"]) - {"maxReplicas"}


@pytest.mark.parametrize("path", list(leaves(KITCHEN_SINK)), ids=".".join)
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
        (("recovery", "terminationGracePeriodSeconds"), 30),
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
        ({"workerGroups": {"cpu": {"maxReplicas": 1, "minReplicas": 2}}}, "minReplicas 2 is above maxReplicas 1"),
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


def test_a_group_of_null_is_removed():
    values = {**values_of("defaults"), "workerGroups": {"gpu": None}}
    assert [group["groupName"] for group in clusters(render(values))[0]["workerGroupSpecs"]] == ["cpu"]


# ---- the trainer's config --------------------------------------------------------------------------------------------


def test_the_generated_files_are_up_to_date():
    assert generate.SCHEMA.read_text() == generate.schema(), "run: python k8s/generate.py"
    assert generate.RAYJOB.read_text() == generate.rayjob(), "run: python k8s/generate.py"


def test_train_may_hold_every_setting_of_the_trainer_and_no_other():
    config = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    assert set(SCHEMA["properties"]["train"]["properties"]) == set(config["properties"])
    for name, model in config["$defs"].items():
        ours = SCHEMA["$defs"][f"train.{name}"]
        assert set(ours["properties"]) == set(model["properties"])
        assert ours["additionalProperties"] is False


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_can_stand_under_train_and_reaches_the_trainer_as_it_is(recipe):
    train = yaml.safe_load(recipe.read_text())
    config = one(render({**values_of("defaults"), "train": train}), "ConfigMap", "-config")
    assert yaml.safe_load(config["data"]["train.yaml"]) == train


def test_what_train_does_not_set_is_left_to_the_trainer():
    config = one(render(values_of("defaults")), "ConfigMap", "-config")
    assert yaml.safe_load(config["data"]["train.yaml"]) == {}


def test_versions_are_those_of_the_trainer_and_of_its_ray():
    project = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"', project, re.MULTILINE)
    (ray,) = re.findall(r'"ray\[.+\]==([0-9.]+)"', project)
    for chart in ("training", "monitoring"):
        assert yaml.safe_load((ROOT / "helm" / chart / "Chart.yaml").read_text())["appVersion"] == version
    assert DEFAULTS["rayVersion"] == ray


# ---- the job and the standing cluster --------------------------------------------------------------------------------


def test_the_job_template_is_found_by_its_label_and_holds_one_rayjob(environment):
    manifests = render(values_of(environment))
    (template,) = [
        m for m in manifests if m["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "job-template"
    ]
    assert template["metadata"]["name"] == "training-rayjob"
    found = yaml.safe_load(template["data"]["rayjob.yaml"])
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    assert found["metadata"]["namespace"] == "training"


def test_the_run_is_started_with_its_name_config_and_log_format():
    found = job(render(values_of("defaults")))
    assert found["metadata"]["name"] == "fashion-mnist"
    assert found["spec"]["entrypoint"] == (
        "python -m trainer train --name fashion-mnist --config /etc/trainer/train.yaml --log-format json"
    )


def test_every_ray_pod_mounts_the_config_and_knows_the_storage():
    for template in (g["template"] for g in clusters(render(values_of("kind")))[0]["workerGroupSpecs"]):
        mounts = {mount["mountPath"]: mount["name"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == mounts["/etc/trainer"]]
        assert volume["configMap"]["name"] == "training-config"
        assert env(template)["TRAINER_STORAGE"] == "s3://runs"
        assert env(template)["AWS_ENDPOINT_URL"] == "http://object-store:7070"
        assert template["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "object-store"}}]


@pytest.mark.parametrize(("endpoint", "allowed"), [("http://store:7070", True), ("https://store", False), ("", False)])
def test_plain_http_is_allowed_for_an_endpoint_that_says_so_and_no_other(endpoint, allowed):
    values = {**values_of("defaults"), "storage": {"uri": "s3://bucket", "endpoint": endpoint}}
    assert ("AWS_ALLOW_HTTP" in env(clusters(render(values))[0]["headGroupSpec"]["template"])) is allowed


def test_the_standing_cluster_is_the_jobs_but_for_its_label():
    values = {**values_of("defaults"), "cluster": {"enabled": True}}
    of_job, standing = clusters(render(values))
    assert standing.pop("upgradeStrategy") == {"type": "Recreate"}
    assert json.dumps(of_job) == json.dumps(standing).replace('"cluster": "standing"', '"cluster": "job"')


def test_there_is_no_standing_cluster_unless_asked_for():
    manifests = render(values_of("defaults"))
    assert [m for m in manifests if m["kind"] == "RayCluster"] == []
    assert list(one(manifests, "ConfigMap", "-rayjob")["data"]) == ["rayjob.yaml"]


def test_the_image_is_the_charts_version_a_tag_or_a_digest():
    def image(**given: str) -> str:
        spec = clusters(render({**values_of("defaults"), "image": given}))[0]
        return spec["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]

    assert image() == "fashion-mnist-on-ray:0.1.0"
    assert image(tag="7") == "fashion-mnist-on-ray:7"
    assert image(tag="7", digest=f"sha256:{'a' * 64}") == f"fashion-mnist-on-ray@sha256:{'a' * 64}"


def test_quota_and_access_are_made_when_asked_for_only():
    kinds = {m["kind"] for m in render(values_of("defaults"))}
    assert not kinds & {"ResourceQuota", "Role", "RoleBinding"}
    manifests = render(KITCHEN_SINK)
    assert one(manifests, "ResourceQuota")["spec"]["hard"] == {"requests.nvidia.com/gpu": 8}
    rules = one(manifests, "Role")["rules"]
    assert not any("secrets" in rule["resources"] or "*" in rule["verbs"] + rule["resources"] for rule in rules)


@pytest.mark.parametrize("name", ["7", "Team", "a" * 41])
def test_a_release_name_that_kuberay_would_refuse_is_refused_at_once(name):
    with pytest.raises(generate.RenderError, match=r"release name|invalid release name|Release name"):
        generate.render(ROOT / "helm" / "training", values_of("defaults"), "training", name)
