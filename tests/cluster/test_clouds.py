"""Where the pods of each cloud's values land: Kubernetes' own scheduler and KubeRay, over nodes that kwok simulates.

The nodes have labels, taints and sizes of the clouds' pools (tests/support/clouds.py). Pods there run no process, so
Ray's autoscaler does not either: its part, how many pods each group has, is played by this test.
"""

import json
import os
import shutil
import subprocess

import pytest
from support import kube
from support.charts import ROOT
from support.clouds import GPU, LABEL, SPOT, SYSTEM, node, pools
from support.kube import get, kubectl, name_of

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("kwok"), reason="kwok is not installed: https://kwok.sigs.k8s.io"),
]

NAMESPACE = "clouds"
LANDS_ON = {"head": SYSTEM, "cpu": SYSTEM, "gpu": GPU, "gpu-spot": SPOT}


def apply(things, namespace=NAMESPACE):
    kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}), namespace=namespace
    )


@pytest.fixture(scope="module")
def simulated(deployed, tmp_path_factory):
    """Only simulated nodes take new pods."""
    folder = tmp_path_factory.mktemp("kwok")
    (folder / "kubeconfig").write_text(kubectl("config", "view", "--raw", "--minify", "--flatten"))
    stages = os.environ.get("KWOK_STAGES")  # or its own, where it brings them
    command = ["kwok", "--kubeconfig", str(folder / "kubeconfig"), "--manage-all-nodes=false"]
    command += ["--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"]
    command += ["--config", stages] if stages else []
    real = [name_of(each) for each in get("nodes", selector="!node-role.kubernetes.io/control-plane")]
    kubectl("cordon", *real)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield
    kubectl("delete", "nodes", "-l", "type=kwok")
    process.terminate()
    process.wait(30)
    kubectl("uncordon", *real)


@pytest.fixture(params=["gke", "eks", "aks"])
def cloud(request, simulated):
    """A cloud: a node of each of its pools, and its values installed in a namespace of their own."""
    kubectl("create", "namespace", NAMESPACE)
    nodes = [node(request.param, pool, 1) for pool in pools(request.param) if not pool.imagined]
    apply(nodes)
    kubectl("wait", "nodes", "-l", "type=kwok", "--for=condition=Ready", "--timeout=60s")
    values = str(ROOT / "k8s" / request.param / "training.yaml")
    command = ["helm", "--kube-context", kube.CONTEXT, "--namespace", NAMESPACE, "install", "training"]
    command += [str(ROOT / "helm" / "training"), "--values", values, "--set", "cluster.enabled=true"]
    subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    yield request.param
    kubectl("delete", "namespace", NAMESPACE)
    kubectl("delete", "nodes", *(name_of(each) for each in nodes))


def scale(**replicas):
    """Give worker groups so many pods, as Ray's autoscaler would."""
    groups = get("raycluster", "training", NAMESPACE)["spec"]["workerGroupSpecs"]
    patch = [
        {"op": "replace", "path": f"/spec/workerGroupSpecs/{index}/replicas", "value": replicas[group["groupName"]]}
        for index, group in enumerate(groups)
        if group["groupName"] in replicas
    ]
    kubectl("patch", "raycluster", "training", "--type=json", "-p", json.dumps(patch), namespace=NAMESPACE)


def landed():
    """The pool that each pod is on, by its group; None for one that waits."""
    of_node = {name_of(each): each["metadata"]["labels"].get(LABEL) for each in get("nodes")}
    return {
        pod["metadata"]["labels"].get("ray.io/group", "").replace("headgroup", "head"): of_node.get(
            pod["spec"].get("nodeName")
        )
        for pod in get("pods", None, NAMESPACE, selector="ray.io/cluster=training")
    }


def test_each_pod_lands_on_its_pool_and_waits_where_that_is_closed(cloud):
    scale(**{"cpu": 1, "gpu": 1, "gpu-spot": 1})
    kube.wait_for("every pod lands on its pool", lambda: landed() == LANDS_ON, 120)

    # a spot pool without nodes: its pods stay pending and land on no other pool; the on-demand group still gets its own
    spot = f"{cloud}-{SPOT}-1"
    scale(**{"gpu": 0, "gpu-spot": 0})
    # as Ray's autoscaler would: KubeRay leaves to it which pods go
    kubectl(
        "delete", "pods", "-l", "ray.io/group in (gpu, gpu-spot)", "--grace-period=0", "--force", namespace=NAMESPACE
    )
    kube.wait_for("the GPU groups are empty", lambda: set(landed()) == {"head", "cpu"}, 120)
    kubectl("cordon", spot)
    scale(**{"gpu": 1, "gpu-spot": 1})
    kube.wait_for("on-demand takes over", lambda: landed() == {**LANDS_ON, "gpu-spot": None}, 120)
    kubectl("uncordon", spot)
    kube.wait_for("spot pods land once there are nodes", lambda: landed() == LANDS_ON, 120)
