"""Where each pod of the charts lands on the pools of each cloud, by a model of the scheduler (tests/support/clouds.py).

tests/cluster/test_clouds.py shows the same with Kubernetes' own scheduler.
"""

import re
import subprocess

import pytest
import yaml
from support.charts import ROOT, one, pods, render, values_of
from support.clouds import GPU, LABEL, SPOT, SYSTEM, Pool, fits, needs_of, pools, tolerated

CLOUDS = ("gke", "eks", "aks")
LANDS_ON = {"head": SYSTEM, "submitter": SYSTEM, "test": SYSTEM, "cpu": SYSTEM, "gpu": GPU, "gpu-spot": SPOT}


@pytest.fixture(params=CLOUDS)
def cloud(request):
    """Each cloud with a folder of values."""
    return request.param


def specs(cloud):
    """The spec of each kind of pod of a cloud, by name."""
    manifests = render(values_of(cloud))
    found = {name: template["spec"] for name, template in pods(manifests)}
    return found | {"test": one(manifests, "Pod", "-test")["spec"]}


@pytest.mark.parametrize("name", LANDS_ON)
def test_a_pod_fits_the_pools_of_its_kind_and_no_others(cloud, name):
    needs = needs_of(specs(cloud)[name])
    fitting = [str(pool) for pool in pools(cloud) if fits(needs, pool)]
    expected = [str(pool) for pool in pools(cloud) if pool.kind == LANDS_ON[name]]
    assert fitting == expected


def test_every_pod_of_a_cloud_is_in_the_table(cloud):
    assert set(specs(cloud)) == set(LANDS_ON)


def test_a_pool_with_gpus_keeps_off_whoever_asks_for_none(cloud):
    anybody = {"containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}
    assert [str(pool) for pool in pools(cloud) if fits(needs_of(anybody), pool)] == [SYSTEM]


def test_the_model_knows_labels_taints_and_sizes():
    pod = {"containers": [{"resources": {"requests": {"cpu": "500m", "memory": "2Gi"}}}]}
    pool = Pool("x", {"a": "1"}, (("t", "v"),), {"cpu": 1, "memory": 4})
    tolerant = {**pod, "tolerations": [{"key": "t", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]}
    assert fits(needs_of(tolerant), pool)
    assert not fits(needs_of(pod), pool)
    assert not fits(needs_of({**tolerant, "nodeSelector": {"a": "2"}}), pool)
    assert not fits(needs_of({**tolerant, "containers": tolerant["containers"] * 3}), pool)
    other = {"key": "t", "operator": "Equal", "value": "w"}
    assert not fits(needs_of({**pod, "tolerations": [other]}), pool)


@pytest.mark.parametrize("cloud", ["eks", "aks"])
def test_the_gpu_operators_pods_tolerate_the_taints_of_every_gpu_pool(cloud):
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]  # its chart's own
    values = {}
    for folder in ("platform", cloud):  # the later one wins
        file = ROOT / "k8s" / folder / "gpu-operator.yaml"
        values |= yaml.safe_load(file.read_text()) if file.exists() else {}
    of_daemons = values.get("daemonsets", {}).get("tolerations", tolerations)
    of_discovery = values.get("node-feature-discovery", {}).get("worker", {}).get("tolerations", tolerations)
    taints = {taint for pool in pools(cloud) for taint in pool.taints}
    for tolerated_there in (of_daemons, of_discovery):
        assert [taint for taint in sorted(taints) if not tolerated(tolerated_there, *taint)] == []


def test_eks_autoscaler_waits_for_the_gpu_of_a_new_node():
    groups = yaml.safe_load((ROOT / "k8s" / "eks" / "cluster.yaml").read_text())["managedNodeGroups"]
    with_gpus = [group for group in groups if group["labels"][LABEL] != SYSTEM]
    assert len(with_gpus) == 2
    assert all(group["labels"]["k8s.amazonaws.com/accelerator"] == "nvidia" for group in with_gpus)
    assert all(group["propagateASGTags"] for group in with_gpus)


def test_eksctls_file_makes_these_pools():
    groups = yaml.safe_load((ROOT / "k8s" / "eks" / "cluster.yaml").read_text())["managedNodeGroups"]
    for pool in pools("eks"):
        if pool.imagined:
            continue
        (group,) = [each for each in groups if each["labels"][LABEL] == pool.kind]
        assert group["labels"].items() <= pool.labels.items()
        assert {(taint["key"], taint["value"]) for taint in group.get("taints", [])} == set(pool.taints)
        assert group.get("spot", False) is (pool.kind == SPOT)
        assert group["disablePodIMDS"]


def test_the_commands_of_the_docs_make_these_pools(cloud):
    text = (ROOT / "docs" / "clouds" / f"{cloud}.md").read_text()
    cluster = ROOT / "k8s" / cloud / "cluster.yaml"
    made = text + (cluster.read_text() if cluster.exists() else "")
    for kind in (SYSTEM, GPU, SPOT):
        assert re.search(rf"{LABEL}[=:] ?(\$pool|{kind}\b)", made), kind
    for pool in pools(cloud):
        for key, value in pool.taints:
            of_the_cloud = (cloud, key) in {("gke", "nvidia.com/gpu"), ("aks", "kubernetes.azure.com/scalesetpriority")}
            said = f"{key}={value}:NoSchedule" in made or re.search(rf"key: {key}, value: {value}", made)
            assert said or of_the_cloud, f"{key}={value}"


# ---- the pages -------------------------------------------------------------------------------------------------------


def blocks(path):
    """The shell blocks of a page."""
    return re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    "page", [ROOT / "docs/clouds.md", *sorted(ROOT.glob("docs/clouds/*.md"))], ids=lambda p: p.stem
)
def test_the_shell_of_the_pages_is_shell(page):
    assert blocks(page)
    for block in blocks(page):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block


def test_every_placeholder_of_the_values_is_explained_on_the_page(cloud):
    page = (ROOT / "docs" / "clouds" / f"{cloud}.md").read_text()
    for file in sorted((ROOT / "k8s" / cloud).glob("*.yaml")):
        code = "".join(line.partition("#")[0] for line in file.read_text().splitlines(keepends=True))
        for placeholder in set(re.findall(r"<[A-Z][A-Z-]*>", code)):
            assert f"`{placeholder}`" in page, f"{file.name}: {placeholder}"


def test_every_variable_of_a_page_is_set_before_it_is_used(cloud):
    text = "\n".join(blocks(ROOT / "docs" / "clouds" / f"{cloud}.md"))
    known = {"CLUSTER_AUTOSCALER_REPO", "CLUSTER_AUTOSCALER_VERSION"}  # of k8s/platform/versions.env
    for line in text.splitlines():
        code = line.partition(" # ")[0]
        known |= set(re.findall(r"(?:^|[ ;&])(?:export )?([A-Za-z_]\w*)=", code))
        known |= set(re.findall(r"for (\w+) in", code))
        for name in re.findall(r"\$\{?([A-Za-z_]\w*)", code):
            assert name in known, f"{name}: {line}"
