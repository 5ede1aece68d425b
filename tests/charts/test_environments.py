"""Where it runs: the files of k8s/ that are no chart, and that they and the charts speak of the same things."""

import re

import pytest
import yaml
from support import schemas
from support.charts import ENVIRONMENTS, ROOT, clusters, one, render, values_of
from support.pod_security import violations
from support.schemas import PLATFORM

from tools.network import Pod, reaches
from trainer.observe.metrics import LAST_SCRAPE

KIND = ROOT / "k8s" / "kind"


@pytest.fixture(scope="module")
def store():
    """The objects of the kind cluster's S3 server."""
    return list(yaml.safe_load_all((KIND / "object-store.yaml").read_text()))


def test_there_are_these_environments():
    assert ENVIRONMENTS == ["aks", "eks", "gke", "kind", "openshift"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_last_values_stay_longer_than_a_scrape_interval(name):
    own = ROOT / "k8s" / name / "monitoring.yaml"
    monitoring = yaml.safe_load((ROOT / "helm" / "monitoring" / "values.yaml").read_text())
    monitoring |= yaml.safe_load(own.read_text()) if own.exists() else {}
    (stay,) = {
        env["value"]
        for container in clusters(render(values_of(name)))[0]["headGroupSpec"]["template"]["spec"]["containers"]
        for env in container["env"]
        if env["name"] == LAST_SCRAPE
    }
    # a value is at the endpoint up to 2 s after it was set
    assert int(stay) >= int(monitoring["interval"].removesuffix("s")) + 2


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if (ROOT / "k8s" / name / "monitoring.yaml").exists()])
def test_the_values_of_monitoring_are_valid_there_too(name):
    values = yaml.safe_load((ROOT / "k8s" / name / "monitoring.yaml").read_text())
    kinds = [manifest["kind"] for manifest in render(values, "monitoring")]
    assert {"PodMonitor", "PrometheusRule", "ConfigMap"} <= set(kinds)


def test_the_kind_cluster_has_two_workers_to_spread_over():
    cluster = yaml.safe_load((KIND / "cluster.yaml").read_text())
    assert [node["role"] for node in cluster["nodes"]] == ["control-plane", "worker", "worker"]


def test_on_kind_two_workers_fit_beside_everything_else_on_two_cores():
    values = values_of("kind")
    assert values["train"]["workers"] == values["workerGroups"]["cpu"]["maxReplicas"] == 2
    spec = clusters(render(values))[0]
    group = next(g for g in spec["workerGroupSpecs"] if g["groupName"] == "cpu")
    requests = [
        container["resources"]["requests"]["cpu"]
        for template, count in [(spec["headGroupSpec"]["template"], 1), (group["template"], 2)]
        for container in template["spec"]["containers"] * count
    ]
    millicores = [int(cpu[:-1]) if cpu.endswith("m") else int(cpu) * 1000 for cpu in requests]
    assert sum(millicores) <= 500
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"
    assert values["train"]["cpus_per_worker"] == 1


def test_the_object_store_is_valid_and_restricted(store):
    assert [line for manifest in store for line in schemas.errors(manifest)] == []
    pod = one(store, "Deployment")["spec"]["template"]["spec"]
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is False


def test_training_finds_the_object_store_its_bucket_and_its_keys(store):
    storage = values_of("kind")["storage"]
    service = one(store, "Service")
    (port,) = service["spec"]["ports"]
    assert storage["endpoint"] == f"http://{service['metadata']['name']}:{port['port']}"
    pod = one(store, "Deployment")["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["command"][-1] == f"/data/{storage['uri'].removeprefix('s3://')}"
    keys = [v["valueFrom"]["secretKeyRef"] for v in pod["containers"][0]["env"] if "valueFrom" in v]
    assert {key["name"] for key in keys} == {storage["existingSecret"]}
    assert {key["key"] for key in keys} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_the_object_store_lets_in_the_pods_that_train_and_no_other(store):
    policies = [one(store, "NetworkPolicy")]
    target = Pod(one(store, "Deployment")["spec"]["template"]["metadata"]["labels"])
    spec = clusters(render(values_of("kind")))[0]
    for template in (spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"]):
        assert reaches(policies, Pod(template["metadata"]["labels"]), target, 7070)
    assert not reaches(policies, Pod({"app": "web"}), target, 7070)
    assert not reaches(policies, target, Pod(namespace=None, address="142.250.1.1"), 443)


def test_no_key_of_the_object_store_is_written_down(store):
    assert [manifest for manifest in store if manifest["kind"] == "Secret"] == []


def test_the_pinned_operator_is_the_one_that_the_chart_is_made_for():
    chart = yaml.safe_load((ROOT / "helm" / "training" / "values.yaml").read_text())
    operator = yaml.safe_load((ROOT / "k8s" / "platform" / "kuberay-operator.yaml").read_text())
    assert PLATFORM["KUBERAY_OPERATOR_VERSION"] == chart["kuberayVersion"]
    assert operator["image"]["tag"] == f"v{chart['kuberayVersion']}"


def test_every_third_party_release_is_pinned_and_has_values():
    names = {name.removesuffix("_VERSION") for name in PLATFORM if name.endswith("_VERSION")} - {"PROMETHEUS_OPERATOR"}
    assert names == {"KUBERAY_OPERATOR", "PROMETHEUS_STACK", "GPU_OPERATOR", "CLUSTER_AUTOSCALER"}
    for name in names:
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", PLATFORM[f"{name}_VERSION"])
        assert PLATFORM[f"{name}_REPO"].startswith("https://")
    for file in ("kuberay-operator", "kube-prometheus-stack", "gpu-operator"):
        assert yaml.safe_load((ROOT / "k8s" / "platform" / f"{file}.yaml").read_text())
        for own in ROOT.glob(f"k8s/*/{file}.yaml"):
            assert yaml.safe_load(own.read_text()), own


@pytest.mark.parametrize("cloud", ["aks", "eks", "gke"])
def test_cloud_values_set_only_what_a_cloud_needs(cloud):
    values = values_of(cloud)
    assert {"image", "storage", "identity", "workerGroups"} <= set(values)
    assert set(values) <= {"image", "storage", "identity", "head", "workerGroups", "network"}
    assert "existingSecret" not in values["storage"]


def test_no_image_is_unpinned(store):
    images = re.findall(r"image: (?:&\w+ )?(\S+)", (KIND / "object-store.yaml").read_text())
    assert [image for image in images if not image.startswith("*") and not re.search(r":v?\d", image)] == []
