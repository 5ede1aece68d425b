"""Who reaches whom under a set of NetworkPolicies: their rules, worked out on paper, and docs/network.md.

tests/cluster/test_network.py compares this with what a cluster lets through.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tools import manifests

K8S = Path(__file__).parents[1] / "k8s"
NAMESPACE = "training"


@dataclass(frozen=True)
class Pod:
    """A pod somewhere in the cluster, or an address outside it (`namespace` is None)."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str | None = NAMESPACE
    address: str = "10.244.1.9"

    def __str__(self) -> str:
        """Short, for the names of tests."""
        return "/".join(self.labels.values()) or self.address


def reaches(policies: list[dict[str, Any]], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out of its source and into its target."""
    return _passes(policies, source, "egress", target, port, protocol) and _passes(
        policies, target, "ingress", source, port, protocol
    )


def _passes(policies: list[Any], pod: Pod, way: str, peer: Pod, port: int, protocol: str) -> bool:
    about = [
        policy["spec"]
        for policy in policies
        if pod.namespace == policy["metadata"].get("namespace", NAMESPACE)
        and _selects(policy["spec"]["podSelector"], pod.labels)
        and way.capitalize() in policy["spec"]["policyTypes"]
    ]
    if not about:
        return True  # what no policy selects is open
    return any(_rule(rule, way, peer, port, protocol) for spec in about for rule in spec.get(way, []))


def _rule(rule: dict[str, Any], way: str, peer: Pod, port: int, protocol: str) -> bool:
    peers = rule.get("to" if way == "egress" else "from")
    ports = rule.get("ports")
    return (not ports or any(p["port"] == port and p["protocol"] == protocol for p in ports)) and (
        not peers or any(_peer(each, peer) for each in peers)
    )


def _peer(peer: dict[str, Any], pod: Pod) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(pod.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(excepted) for excepted in block.get("except", [])
        )
    if pod.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace}):
            return False
    elif pod.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), pod.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    by_operator = {
        "In": lambda rule: labels.get(rule["key"]) in rule["values"],
        "NotIn": lambda rule: labels.get(rule["key"]) not in rule["values"],
        "Exists": lambda rule: rule["key"] in labels,
        "DoesNotExist": lambda rule: rule["key"] not in labels,
    }
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        by_operator[rule["operator"]](rule) for rule in selector.get("matchExpressions", [])
    )


# ---- docs/network.md -------------------------------------------------------------------------------------------------

COMPONENT, PART_OF, INSTANCE = "app.kubernetes.io/component", "app.kubernetes.io/part-of", "app.kubernetes.io/instance"


def part(component: str) -> Pod:
    """A pod of the release."""
    return Pod({COMPONENT: component, PART_OF: "fashion-mnist-on-ray", INSTANCE: "training"})


PARTS = {name: part(name) for name in ("head", "worker", "submitter")}
BESIDE = Pod({"app": "web"})
ELSEWHERE = Pod({"app": "web"}, "another", "10.244.2.9")
OPERATOR = Pod({COMPONENT: "kuberay-operator"}, "kuberay-system")
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")

# What pods may want to reach: in words, address or pod, port, protocol.
TARGETS: list[tuple[str, Pod, int, str]] = [
    ("names: the cluster's DNS, 53", Pod({"k8s-app": "kube-dns"}, "kube-system"), 53, "UDP"),
    ("names: a node's cache of them, 53", Pod({"k8s-app": "node-local-dns"}, "kube-system"), 53, "UDP"),
    ("kind's object store, 7070", Pod({"app.kubernetes.io/name": "object-store"}), 7070, "TCP"),
    ("a public address, 443 (the cloud's object store is one)", Pod(namespace=None, address="203.0.113.7"), 443, "TCP"),
    ("a public address, 80", Pod(namespace=None, address="203.0.113.7"), 80, "TCP"),
    ("a public address of IPv6, 443", Pod(namespace=None, address="2606:4700::1111"), 443, "TCP"),
    (
        "a private network (the API server, where its address is not known), 443",
        Pod(namespace=None, address="10.99.99.99"),
        443,
        "TCP",
    ),
    ("a pod of another namespace, 80", ELSEWHERE, 80, "TCP"),
    ("another pod of the namespace, 80", BESIDE, 80, "TCP"),
    ("a node's kubelet, 10250", Pod(namespace=None, address="10.99.99.98"), 10250, "TCP"),
    ("a carrier's network (100.64.0.0/10), 443", Pod(namespace=None, address="100.64.0.1"), 443, "TCP"),
    ("the metadata server 169.254.169.254, 80", Pod(namespace=None, address="169.254.169.254"), 80, "TCP"),
    ("GKE's metadata server 169.254.169.252, 988", Pod(namespace=None, address="169.254.169.252"), 988, "TCP"),
    ("EKS' pod identity agent 169.254.170.23, 80", Pod(namespace=None, address="169.254.170.23"), 80, "TCP"),
    ("Azure's host 168.63.129.16, 80", Pod(namespace=None, address="168.63.129.16"), 80, "TCP"),
    ("Azure's host 168.63.129.16, 443", Pod(namespace=None, address="168.63.129.16"), 443, "TCP"),
    ("the metadata server of AWS by IPv6, 80", Pod(namespace=None, address="fd00:ec2::254"), 80, "TCP"),
]
# What others may want of the pods: in words, component, port.
DOORS = [
    ("the head's dashboard and jobs, 8265", "head", 8265),
    ("the head's control (GCS), 6379", "head", 6379),
    ("the head's Ray client, 10001", "head", 10001),
    ("metrics of the head, 8080", "head", 8080),
    ("metrics of the autoscaler, 44217", "head", 44217),
    ("metrics of a worker, 8080", "worker", 8080),
    ("a worker's other ports, such as 20000", "worker", 20000),
    ("the submitter, any port", "submitter", 80),
]
CALLERS = {
    **PARTS,
    "operator": OPERATOR,
    "Prometheus": PROMETHEUS,
    "another pod of the namespace": BESIDE,
    "a pod of another namespace": ELSEWHERE,
}


PREAMBLE = """\
<!-- Generated by `make generate` from helm/training, k8s/*/training.yaml and tools/network.py: change it there. -->
# Who reaches whom

What the network policies of `helm/training` let through, with the values of each environment. A name in a cell means:
only there. The policies are part of the security ([decision 14](decisions/0014-submitters-and-networks.md)), so the
cluster's network plugin must enforce them. `tests/cluster/test_network.py` tries these ways on a real cluster, with the
policies of every environment.
"""


def environments() -> list[str]:
    """Names of the folders of k8s/ that have values for helm/training."""
    return sorted(path.parent.name for path in K8S.glob("*/training.yaml"))


def policies_of(environment: str) -> list[dict[str, Any]]:
    """The network policies that an environment's values make."""
    values = yaml.safe_load((K8S / environment / "training.yaml").read_text())
    rendered = yaml.safe_load_all(manifests.render(manifests.TRAINING, values, NAMESPACE))
    return [each for each in rendered if each and each["kind"] == "NetworkPolicy"]


def page() -> Iterator[str]:
    """The lines of docs/network.md."""
    policies = {name: policies_of(name) for name in environments()}
    yield PREAMBLE
    yield "## Out of the pods"
    yield ""
    yield f"| to | {' | '.join(PARTS)} |"
    yield f"|---|{'---|' * len(PARTS)}"
    for words, target, port, protocol in TARGETS:
        cells = (_where(policies, source, target, port, protocol) for source in PARTS.values())
        yield f"| {words} | {' | '.join(cells)} |"
    yield ""
    yield "The head also reaches the API server, at the addresses that the cluster names when the chart is installed."
    yield ""
    yield "## Into the pods"
    yield ""
    yield f"| to | {' | '.join(CALLERS)} |"
    yield f"|---|{'---|' * len(CALLERS)}"
    for words, component, port in DOORS:
        cells = (_where(policies, source, PARTS[component], port) for source in CALLERS.values())
        yield f"| {words} | {' | '.join(cells)} |"
    yield ""
    yield "Head and workers reach each other on every port: Ray opens random ones, and requires its token there."
    yield ""


def _where(policies: dict[str, list[Any]], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> str:
    there = [name for name, made in policies.items() if reaches(made, source, target, port, protocol)]
    if len(there) == len(policies):
        return "yes"
    return ", ".join(there) if there else "–"
