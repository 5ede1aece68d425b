"""The chart `training`: its objects, what they hold of the trainer's config, and that nothing is written twice."""

import json
import re

import pytest
import yaml
from support import schemas
from support.charts import ROOT, clusters, env, generate, job, one, render, values_of

from trainer.observe import cost

KITCHEN_SINK = values_of("kitchen-sink")
SCHEMA = json.loads((ROOT / "helm" / "training" / "values.schema.json").read_text())
RECIPES = sorted((ROOT / "trainer" / "recipes").glob("*.yaml"))


# ---- every object is valid -------------------------------------------------------------------------------------------


def test_every_object_of_kubernetes_own_is_valid(manifests):
    own = [manifest for manifest in manifests if manifest["kind"] not in schemas.CUSTOM]
    assert len(own) > 5
    assert [line for manifest in own for line in schemas.errors(manifest)] == []


def test_every_job_and_cluster_is_what_kuberay_takes_to_the_letter(manifests):
    custom = [manifest for manifest in manifests if manifest["kind"] in schemas.CUSTOM]
    assert custom
    try:
        assert [line for manifest in custom for line in schemas.errors(manifest)] == []
    except schemas.NoSchemaError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("release", ["1.7.0"])
def test_every_job_and_cluster_is_what_the_next_kuberay_takes_to_the_letter(release):
    for environment in ("defaults", "kind", "gke"):
        values = {**values_of(environment), "kuberayVersion": release, "cluster": {"enabled": True}}
        custom = [manifest for manifest in render(values) if manifest["kind"] in schemas.CUSTOM]
        assert len(custom) == 3
        try:
            assert [line for manifest in custom for line in schemas.errors(manifest, release)] == []
        except schemas.NoSchemaError as reason:
            pytest.skip(str(reason))
    groups = job(render(values))["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {group["groupName"]: group["priority"] for group in groups} == {"cpu": 0, "gpu": 0, "gpu-spot": 10}


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


# ---- the trainer's config --------------------------------------------------------------------------------------------


def test_the_generated_files_are_up_to_date():
    assert generate.SCHEMA.read_text() == generate.schema(), "run: make generate"
    # the versions of Helm agree on what they write, not on how
    assert yaml.safe_load(generate.RAYJOB.read_text()) == yaml.safe_load(generate.rayjob()), "run: make generate"


def test_train_may_hold_every_setting_of_the_trainer_and_no_other():
    config = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    assert set(SCHEMA["properties"]["train"]["properties"]) == set(config["properties"])
    for name, model in config["$defs"].items():
        ours = SCHEMA["$defs"][f"train.{name}"]
        assert set(ours["properties"]) == set(model["properties"])
        assert ours["additionalProperties"] is False


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_is_valid_under_train(recipe):
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
    assert yaml.safe_load((ROOT / "helm" / "training" / "values.yaml").read_text())["rayVersion"] == ray


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


def test_every_ray_pod_knows_what_it_is_without_asking():
    groups = {
        "spot": {"maxReplicas": 1, "spot": True, "nodeSelector": {"node.kubernetes.io/instance-type": "g5.xlarge"}},
        "cpu": {"maxReplicas": 1},
    }
    spec = clusters(render({**values_of("kind"), "workerGroups": groups}))[0]
    of_head = spec["headGroupSpec"]["template"]
    of_group = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    known = {name: env(template) for name, template in {**of_group, "head": of_head}.items()}
    assert {name: values["TRAINER_GROUP"] for name, values in known.items() if name in ("head", "spot", "cpu")} == {
        name: name for name in ("head", "spot", "cpu")
    }
    assert (known["spot"]["TRAINER_SPOT"], known["spot"]["TRAINER_INSTANCE_TYPE"]) == ("true", "g5.xlarge")
    assert known["cpu"]["TRAINER_SPOT"] == known["head"]["TRAINER_SPOT"] == "false"
    assert "TRAINER_INSTANCE_TYPE" not in known["cpu"]
    assert known["head"]["TRAINER_NODE"] == "spec.nodeName"
    for template in (of_head, *of_group.values()):
        (container,) = [c for c in template["spec"]["containers"] if c["name"].startswith("ray-")]
        assert "/etc/podinfo" in [mount["mountPath"] for mount in container["volumeMounts"]]


PRICE = {"perHour": 0.5, "currency": "USD"}
PRICED = {"head": {"price": PRICE}, "workerGroups": {"cpu": {"price": {**PRICE, "perHour": 0.9}}, "gpu": None}}


def test_the_driver_knows_the_prices_of_all_groups_and_the_budget():
    values = {**values_of("kind"), **PRICED, "budget": {"amount": 2.5, "stop": True}, "cluster": {"enabled": True}}
    of_job, standing = clusters(render(values))
    known = env(of_job["headGroupSpec"]["template"])
    assert cost.prices(known) == cost.Prices("USD", {"head": 0.5, "cpu": 0.9}, {"head": "", "cpu": ""})
    assert cost.budget(known) == cost.Budget(2.5, stop=True)
    others = [standing["headGroupSpec"], *of_job["workerGroupSpecs"], *standing["workerGroupSpecs"]]
    assert [cost.prices(env(spec["template"])) for spec in others] == [None] * len(others)


def test_prices_may_be_strings_as_helm_set_makes_them_of_fractions():
    of_cpu = {"cpu": {"price": {"perHour": "0.9"}}, "gpu": None}
    values = {
        **values_of("kind"),
        "head": {"price": {"perHour": "1"}},
        "workerGroups": of_cpu,
        "budget": {"amount": ".5"},
    }
    known = env(clusters(render(values))[0]["headGroupSpec"]["template"])
    assert cost.prices(known).per_hour == {"head": 1.0, "cpu": 0.9}
    assert cost.budget(known).amount == 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"head": {"price": PRICE}}, "workerGroups.cpu.price, workerGroups.gpu.price: not set"),
        ({"workerGroups": {"cpu": {"price": PRICE}, "gpu": {"price": PRICE}}}, "head.price: not set"),
        ({**PRICED, "head": {"price": {**PRICE, "currency": "EUR"}}}, "price.currency: "),
        ({"budget": {"amount": 1}}, "budget.amount: without prices no cost is known"),
        ({**PRICED, "head": {"price": {"perHour": "much"}}}, "perHour"),
        ({**PRICED, "head": {"price": {"perHour": "0.00"}}}, "perHour"),
        ({**PRICED, "head": {"price": {**PRICE, "perHour": 0}}}, "perHour"),
        ({**PRICED, "budget": {"amount": -1}}, "amount"),
    ],
)
def test_prices_that_would_give_a_wrong_cost_are_refused(values, words):
    with pytest.raises(generate.RenderError) as caught:
        render({**values_of("defaults"), **values})
    assert words in str(caught.value)


def test_the_standing_cluster_is_the_jobs_but_for_its_label():
    values = {**values_of("defaults"), "cluster": {"enabled": True}}
    of_job, standing = clusters(render(values))
    assert standing.pop("upgradeStrategy") == {"type": "Recreate"}
    assert json.dumps(of_job) == json.dumps(standing).replace(
        '"trainer/cluster": "standing"', '"trainer/cluster": "job"'
    )


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
