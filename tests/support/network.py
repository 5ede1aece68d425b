"""Who reaches whom under a set of NetworkPolicies: their rules, worked out on paper."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pod:
    """A pod somewhere in the cluster, or an address outside it (`namespace` is None)."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str | None = "training"
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
        if pod.namespace == policy["metadata"].get("namespace", "training")
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
    elif pod.namespace != "training":
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
