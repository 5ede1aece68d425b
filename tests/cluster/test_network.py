"""Network policies of every environment on a real cluster: what docs/network.md says is what gets through.

Addresses that only clouds have (metadata servers, Azure's host), one of a private network and one of the internet are
given to the control plane's node here, with a server, and the other nodes get a route there: so a connection is refused
by a policy or not at all.
"""

import json
import subprocess

import pytest
from support import kube
from support.kube import get, kubectl

from tools import network

pytestmark = pytest.mark.ci

HERE, ELSEWHERE = "reach", "reach-elsewhere"
OUTSIDE = sorted({pod.address for _, pod, _, _ in network.TARGETS if pod.namespace is None and ":" not in pod.address})
SERVE = """
import socket, sys, threading
for port in map(int, sys.argv[1:]):
    def answer(server):
        while True:
            server.accept()[0].close()
    threading.Thread(target=answer, args=[socket.create_server(("", port), backlog=64)]).start()
print("serving", flush=True)
"""
CONNECT = """
import concurrent.futures, json, socket, sys
def there(target):
    try:
        socket.create_connection(target, 3).close()
        return True
    except OSError:
        return False
targets = [tuple(each) for each in json.loads(sys.argv[1])]
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(there, targets))))
"""


def pod(name, namespace, labels, ports):
    """A pod that listens on some ports."""
    container = {"name": "serve", "image": kube.IMAGE, "imagePullPolicy": "Never"}
    container["command"] = ["python", "-c", SERVE, *map(str, ports)]
    container["resources"] = {"requests": {"cpu": "5m", "memory": "32Mi"}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def apply(things, namespace):
    kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}), namespace=namespace
    )


def on_node(node, *command):
    subprocess.run(["docker", "exec", node, *command], check=True)


@pytest.fixture(scope="module")
def outside(deployed):
    """The addresses outside the cluster, with a server behind them."""
    nodes = get("nodes")
    (control,) = [node for node in nodes if "node-role.kubernetes.io/control-plane" in node["metadata"]["labels"]]
    (way,) = [each["address"] for each in control["status"]["addresses"] if each["type"] == "InternalIP"]
    others = [kube.name_of(node) for node in nodes if node is not control]
    for address in OUTSIDE:
        on_node(kube.name_of(control), "ip", "address", "replace", f"{address}/32", "dev", "lo")
        for node in others:
            on_node(node, "ip", "route", "replace", f"{address}/32", "via", way)
    command = ["docker", "run", "--detach", "--rm", "--user", "0", "--entrypoint", "python"]
    command += ["--network", f"container:{kube.name_of(control)}", kube.IMAGE, "-c", SERVE, "80", "443", "988"]
    server = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    yield
    subprocess.run(["docker", "rm", "--force", server], capture_output=True, check=True)
    for address in OUTSIDE:
        for node in others:
            on_node(node, "ip", "route", "del", f"{address}/32")
        on_node(kube.name_of(control), "ip", "address", "del", f"{address}/32", "dev", "lo")


@pytest.fixture(scope="module")
def addresses(outside):
    """Where each target is that is a pod: of each part, and of others."""
    kubectl("delete", "namespace", HERE, ELSEWHERE, "--ignore-not-found")  # of a session that was broken off
    for namespace in (HERE, ELSEWHERE):
        kubectl("create", "namespace", namespace)
    doors = {name: sorted({port for _, part, port in network.DOORS if part == name}) for name in network.PARTS}
    made = [pod(name, HERE, network.PARTS[name].labels, doors[name]) for name in network.PARTS]
    made += [pod("beside", HERE, network.BESIDE.labels, [80])]
    made += [pod("store", HERE, {"app.kubernetes.io/name": "object-store"}, [7070])]
    # GKE asks policies about the pod of its cache of names
    made += [pod("cache", "kube-system", {"k8s-app": "node-local-dns"}, [53])]
    made += [pod("elsewhere", ELSEWHERE, network.ELSEWHERE.labels, [80])]
    for namespace in (HERE, ELSEWHERE, "kube-system"):
        apply([each for each in made if each["metadata"]["namespace"] == namespace], namespace)
        kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=180s", namespace=namespace)
    found = {kube.name_of(each): each["status"]["podIP"] for ns in (HERE, ELSEWHERE) for each in get("pods", None, ns)}
    found["cache"] = get("pod", "cache", "kube-system")["status"]["podIP"]
    dns = get("pods", None, "kube-system", selector="k8s-app=kube-dns")
    yield {**found, "dns": dns[0]["status"]["podIP"]}
    kubectl("delete", "namespace", HERE, ELSEWHERE)
    kubectl("delete", "pod", "cache", namespace="kube-system")


@pytest.fixture(params=network.environments())
def policies(request, addresses):
    """The policies of an environment, in force."""
    made = network.policies_of(request.param)
    apply(made, HERE)
    yield made
    kubectl("delete", "networkpolicies", "--all", namespace=HERE)


def connections(source, targets):
    """Which (address, port) a pod can connect to."""
    namespace = ELSEWHERE if source == "elsewhere" else HERE
    answer = kubectl("exec", source, "--", "python", "-c", CONNECT, json.dumps(targets), namespace=namespace)
    return [target for target, there in zip(targets, json.loads(answer), strict=True) if there]


def address_of(target, addresses):
    """Where a target of docs/network.md is on this cluster."""
    if target.namespace is None:
        return target.address
    names = {"kube-dns": "dns", "node-local-dns": "cache", "object-store": "store"}
    by_label = next((names[value] for value in target.labels.values() if value in names), None)
    return addresses[by_label or ("elsewhere" if target == network.ELSEWHERE else "beside")]


def expected_of(policies, source, addresses):
    """What the model says that a part reaches, and all that is tried."""
    tried, reached = [], []
    for _, target, port, _ in network.TARGETS:
        if ":" in target.address or port == 10250:  # no IPv6 here; the kubelet is below
            continue
        where = [address_of(target, addresses), port]
        tried.append(where)
        if network.reaches(policies, network.PARTS[source], target, port):
            reached.append(where)
    return tried, reached


def test_pods_reach_what_the_docs_say_and_nothing_else(policies, addresses):
    for source in network.PARTS:
        tried, expected = expected_of(policies, source, addresses)

        # policies are in force some moments after they were made
        for _ in range(10):
            if (found := connections(source, tried)) == expected:
                break
        assert found == expected, source


def test_pods_are_reached_by_whom_the_docs_say_and_by_nobody_else(policies, addresses):
    sources = {**network.PARTS, "beside": network.BESIDE, "elsewhere": network.ELSEWHERE}
    for source, caller in sources.items():
        tried = [[addresses[part], port] for _, part, port in network.DOORS if part != source]
        expected = [
            [addresses[part], port]
            for _, part, port in network.DOORS
            if part != source and network.reaches(policies, caller, network.PARTS[part], port)
        ]
        assert connections(source, tried) == expected, source


def test_without_policies_all_of_this_is_reached(addresses):
    # or a refusal above would show nothing
    tried, _ = expected_of([], "worker", addresses)
    assert connections("worker", tried) == tried
    assert connections("elsewhere", [[addresses["head"], 6379]]) == [[addresses["head"], 6379]]


def test_the_head_reaches_the_api_server_at_its_address_and_no_other_host_of_a_private_network(deployed):
    (policy,) = [each for each in get("networkpolicies") if kube.name_of(each) == "training-head"]
    (slice_,) = [each for each in get("endpointslices", None, "default") if kube.name_of(each) == "kubernetes"]
    addresses = [f"{address}/32" for endpoint in slice_["endpoints"] for address in endpoint["addresses"]]
    (rule,) = policy["spec"]["egress"]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == sorted(addresses)
    assert [port["port"] for port in rule["ports"]] == [port["port"] for port in slice_["ports"]]
