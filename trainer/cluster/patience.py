"""How long a run on Kubernetes is waited for, by what holds it up, and why so long; docs/waiting.md is made of it.

A follower gives up on what will not go away by itself. Others may still be about to solve it: each of their delays, as
they document it, is well below the wait for it here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from trainer.errors import ClusterError, LostConnectionError


@dataclass(frozen=True)
class Wait:
    """So many seconds, for this reason."""

    seconds: float
    reason: str


WAITS = {
    "lost": Wait(
        900, "An API server that is upgraded or moved is away for minutes; the run itself continues meanwhile."
    ),
    "refused": Wait(60, "An API server that has just started refuses all requests for a moment."),
    "operator": Wait(
        60, "KubeRay sees a new RayJob within a second; after a restart, once it is the leader: its lease lasts 15 s."
    ),
    "definite": Wait(20, "The cluster has said no: policy, missing image, wrong field, no node group that fits."),
    "no autoscaler": Wait(
        60, "No node comes from a cloud, and no autoscaler has said a word: cluster-autoscaler would after 10 to 40 s."
    ),
    "autoscaler": Wait(
        300,
        "cluster-autoscaler looks every 10 s, lets pods with GPUs wait for 30 s, and a look at a large cluster takes a "
        "minute; Karpenter collects pods for 10 s. Once a node is being created, the wait has no limit.",
    ),
    "node group": Wait(
        600,
        "A node group is at its maximum, or failed to grow and is tried again: cluster-autoscaler pauses for 5 min.",
    ),
    "registry": Wait(300, "A registry that is away or limits requests: the kubelet tries again for up to 5 min apart."),
    "reference": Wait(60, "A Secret or ConfigMap that an operator (External Secrets, cert-manager) is about to make."),
    "crash": Wait(120, "The kubelet starts a container again after 10, 20 and 40 s: it has had three tries by then."),
    "volume": Wait(
        480, "A disk is detached from a lost node after 6 min; creating one takes a cloud up to a minute or two."
    ),
    "quota": Wait(150, "Pods that are ending count until they are gone: up to 90 s for workers that drain."),
    "webhook": Wait(180, "A webhook whose pods restart answers again within a minute or two."),
}


def seconds(about: str) -> float:
    """Return how long this is waited for."""
    return WAITS[about].seconds


class Patience:
    """Counts the time since the cluster last answered; a refusal after a silence starts a count of its own."""

    def __init__(self) -> None:
        self._silent_since: float | None = None  # lost or refused
        self._refused_since: float | None = None
        self._announced: set[type[ClusterError]] = set()

    def failed(self, error: ClusterError) -> bool:
        """Count a failed poll, and return whether it is the first of its kind since the cluster last answered.

        Raises:
            ClusterError: `error` itself, when it has lasted too long.
        """
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if isinstance(error, LostConnectionError):
            self._refused_since = None
            kind: type[ClusterError] = LostConnectionError
            until = self._silent_since + seconds("lost")
        else:
            if self._refused_since is None:
                self._refused_since = now
            kind = ClusterError
            until = self._refused_since + seconds("refused")
        if now > until:
            raise error
        first = kind not in self._announced
        self._announced.add(kind)
        return first

    def succeeded(self) -> float | None:
        """Count a poll that was answered; return how many seconds of silence it ended, or None if there was none."""
        silent_s = None if self._silent_since is None else time.monotonic() - self._silent_since
        self._silent_since = None
        self._refused_since = None
        self._announced.clear()
        return silent_s
