"""`make uninstall`: nothing is left behind but the cluster, and that goes by `make kind-delete`."""

import time

import pytest
from support.kube import KEEP, kubectl, make, objects

pytestmark = pytest.mark.skipif(KEEP, reason="KEEP_CLUSTER=1: the cluster is still needed")


@pytest.mark.parametrize("target", ["uninstall", "kind-delete"])
def test_what_takes_records_away_asks_first(deployed, target):
    printed = make(target, yes="", code=2)
    assert "their records cannot be brought back. Say so with YES=1." in printed


def test_uninstalling_leaves_what_was_there_before(before, deployed):
    kubectl("delete", "pod", "neighbour", "--ignore-not-found", namespace="default")
    printed = make("uninstall")
    assert "nothing is left" in printed
    until = time.monotonic() + 120
    while (left := objects() - before) and time.monotonic() < until:
        time.sleep(1)
    assert sorted(left) == []
    assert sorted(before - objects()) == []
