"""`helm upgrade` from the version before while a run is in flight, with its own Ray cluster and on the standing one."""

import hashlib

import pytest
from support import cluster_cli, kube
from support.kube import ROOT, get, wait_for

from trainer.storage import store as stores
from trainer.storage.mirror import open_record

pytestmark = pytest.mark.long

OLD = ROOT / "tests" / "fixtures" / "0.1.0" / "helm-training.tgz"
NEW = ROOT / "helm" / "training"


def install(chart, *settings):
    """Put a version of the chart in the place of the one that is there."""
    cluster_cli.helm(*(word for each in settings for word in ("--set", each)), chart=chart)


@pytest.fixture(scope="module", params=["own", "standing"])
def upgraded(request, deployed, store, prometheus):
    """A run that trained while its chart was upgraded: its name, its command at the end, and the token before."""
    settings = ["cluster.enabled=true"] if request.param == "standing" else []
    run = f"upgraded-{request.param}"
    kube.forget(store, run)
    cluster_cli.remove(run)
    install(OLD, *settings)
    token = kube.secret("training-token", "auth_token")
    command = cluster_cli.start(
        "submit", "--name", run, "--workers", "1", "--cluster", request.param, "--set", "epochs=6"
    )
    wait_for("the run trains", lambda: prometheus.now(f'ray_trainer_progress_ratio{{run="{run}"}} > 0.1'), 420)
    install(NEW, *settings)
    assert command.wait(900) == 0, command.text
    yield run, command, token
    install(NEW)
    cluster_cli.remove(run)


def test_the_run_ends_as_if_nothing_had_been_upgraded(upgraded, store):
    run, command, _ = upgraded
    result = open_record(f"{store}/{run}").result()
    assert result is not None
    assert result["status"] == "finished", command.text
    # its own cluster does not notice; the standing one is made again with the new values, and the run continues there
    assert result["attempt"] == (1 if run.endswith("own") else 2)


def test_its_weights_are_those_of_a_run_that_nothing_disturbed(upgraded, store):
    run, _, _ = upgraded
    assert weights_of(f"{store}/{run}") == undisturbed(store)


def undisturbed(store):
    """The weights of the same run by itself, made once."""
    run = f"{store}/not-upgraded"
    if open_record(run).result() is None:
        name = run.rpartition("/")[2]
        code, command = cluster_cli.trainer(
            "submit", "--name", name, "--workers", "1", "--set", "epochs=6", seconds=600
        )
        assert code == 0, command.text
        cluster_cli.remove(name)
    return weights_of(run)


def weights_of(run):
    content = stores.read(f"{run}/model.safetensors")
    assert content
    return hashlib.sha256(content).hexdigest()


def test_the_upgrade_keeps_the_token_and_the_accounts(upgraded):
    _, _, token = upgraded
    assert kube.secret("training-token", "auth_token") == token
    assert {kube.name_of(each) for each in get("serviceaccounts")} >= {"training-head", "training-worker"}
