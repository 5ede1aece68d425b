"""`trainer doctor --cluster`: a healthy cluster is healthy, and each of the planted faults is found."""

import json
from contextlib import contextmanager

import pytest
from support import cluster_cli, kube
from support.cluster_cli import chart, trainer
from support.kube import get, kubectl

from trainer.errors import ExitCode


def doctor(**options):
    """Exit code, and the checks by where and what."""
    code, command = trainer("doctor", "--cluster", "--json", **options)
    found = [event for event in command.events() if event["event"] == "check"]
    assert found, command.text
    return code, found


def wrong(found):
    """The checks that came out wrong."""
    return [each for each in found if each["state"] == "wrong"]


def test_a_healthy_cluster_is_healthy_from_here_and_from_its_pods(deployed, store):
    code, found = doctor()
    assert (code, wrong(found)) == (ExitCode.OK, [])
    seen = {(each["where"], each["what"]) for each in found}
    assert {("cluster", what) for what in ("API server", "clock", "rights", "chart")} <= seen
    for group in ("head", "cpu"):
        whats = ("versions", "CPU", "GPU", "shared memory", "DNS", "storage", "data", "clock")
        assert {(group, what) for what in whats} <= seen
    assert ("head", "API server") in seen
    assert {each["found"] for each in found if each["what"] == "versions" and each["where"] in ("head", "cpu")} == {
        next(each["found"] for each in found if (each["where"], each["what"]) == ("head", "versions"))
    }
    (storage,) = [each for each in found if (each["where"], each["what"]) == ("cpu", "storage")]
    assert "s3://runs: written, created once, read, listed and deleted" in storage["found"]
    assert storage["found"].endswith("as access key training")
    (gpu,) = [each for each in found if each["where"] == "gpu"]
    assert "no node offers nvidia.com/gpu" in gpu["found"]
    assert [name for name in (kube.name_of(job) for job in get("rayjobs")) if name.startswith("doctor-")] == []
    assert cluster_cli.pods_of("doctor") == []


@contextmanager
def template(change):
    """The job template with a change to its text."""
    before = get("configmap", "training-rayjob")["data"]["rayjob.yaml"]
    changed = change(before)
    assert changed != before
    put = lambda text: kubectl(  # noqa: E731 # twice the same
        "patch", "configmap", "training-rayjob", "--type=merge", "-p", json.dumps({"data": {"rayjob.yaml": text}})
    )
    put(changed)
    try:
        yield
    finally:
        put(before)


def by(old, new):
    return lambda: template(lambda text: text.replace(old, new))


@contextmanager
def wrong_keys():
    keys = ["AWS_ACCESS_KEY_ID=training", "AWS_SECRET_ACCESS_KEY=wrong"]
    kubectl("create", "secret", "generic", "doctor-keys", *(f"--from-literal={key}" for key in keys))
    try:
        with chart("storage.existingSecret=doctor-keys"):
            yield
    finally:
        kubectl("delete", "secret", "doctor-keys")


# how to plant it; where and what; words of what is found or of the fix; exit code
FAULTS = {
    "a bucket that is not there": (
        lambda: chart("storage.uri=s3://nope"),
        ("head", "storage"),
        "the bucket does not exist",
        ExitCode.STORAGE,
    ),
    "keys that the store does not know": (
        wrong_keys,
        ("cpu", "storage"),
        "does not accept these keys",
        ExitCode.STORAGE,
    ),
    "a store without an address": (
        lambda: chart("storage.endpoint=http://nosuch-store:7070"),
        ("cpu", "DNS"),
        "nosuch-store has no address",
        ExitCode.STORAGE,
    ),
    "an image that is not there": (
        lambda: chart("image.tag=nope"),
        ("pods", "start"),
        "fashion-mnist-on-ray:nope cannot be pulled",
        ExitCode.CLUSTER,
    ),
    "a Secret that is not there": (
        lambda: chart("storage.existingSecret=nope"),
        ("pods", "start"),
        'secret "nope" not found',
        ExitCode.CLUSTER,
    ),
    "an autoscaler whose version is not written": (
        by("version: v2", "idleTimeoutSeconds: 60"),
        ("job template rayjob.yaml", "autoscaler"),
        "write version: v2",
        ExitCode.CLUSTER,
    ),
    "a grace shorter than the drain": (
        by("terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 20"),
        ("job template rayjob.yaml", "group cpu"),
        "Ray drains 60 s",
        ExitCode.CLUSTER,
    ),
    "a field that KubeRay does not know": (
        by("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: true\n  endAfterLunch: true"),
        ("job template rayjob.yaml", "admission"),
        "spec.endAfterLunch",
        ExitCode.CLUSTER,
    ),
    "shared memory for no object": (
        by("emptyDir: {medium: Memory, sizeLimit: 3Gi}", "emptyDir: {medium: Memory, sizeLimit: 64Mi}"),
        ("cpu", "shared memory"),
        "has 64 MiB",
        ExitCode.OK,  # a warning
    ),
}


@pytest.mark.parametrize(
    "fault", kube.long_but(FAULTS, "a bucket that is not there", "an autoscaler whose version is not written")
)
def test_a_planted_fault_is_found_with_its_fix(deployed, store, fault):
    plant, place, words, expected = FAULTS[fault]
    with plant():
        code, found = doctor()
    there = [each for each in found if (each["where"], each["what"]) == place and each["state"] != "ok"]
    assert there, found
    assert any(words in f"{each['found']} → {each['fix']}" for each in there), there
    assert all(each["fix"] for each in there)
    assert code == expected


def test_missing_rights_are_named_and_nothing_is_created(deployed, nobody):
    code, found = doctor(kubeconfig=nobody)
    assert code == ExitCode.CLUSTER
    (rights,) = [each for each in found if each["what"] == "rights"]
    assert "create rayjobs" in rights["found"]
    assert "access.subjects" in rights["fix"]


def test_a_namespace_without_the_chart_is_found(deployed):
    code, found = doctor_in("default")
    assert code == ExitCode.CLUSTER
    assert "has no release of helm/training" in wrong(found)[0]["found"]


def doctor_in(namespace):
    code, command = trainer("doctor", "--cluster", "--json", "--namespace", namespace)
    return code, [event for event in command.events() if event["event"] == "check"]
