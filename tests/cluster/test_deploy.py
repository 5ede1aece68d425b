"""`make deploy`: from no cluster to ready, and again over what is there."""

from cluster.kube import get, make, secret


def test_deploy_ends_ready_and_says_what_to_do_next(deployed):
    assert "ready. Next:" in deployed
    assert "kubectl --context kind-fashion-mnist-test apply -f k8s/rayjob.yaml" in deployed


def test_deploying_again_changes_no_secret(deployed):
    names = [("training-token", "auth_token"), ("object-store", "AWS_SECRET_ACCESS_KEY")]
    before = [secret(name, key) for name, key in names]
    make("charts", "ready")
    assert [secret(name, key) for name, key in names] == before


def test_the_namespace_of_runs_enforces_restricted_pod_security(deployed):
    labels = get("namespace", "training")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_key_of_the_object_store_is_shown(deployed):
    assert secret("object-store", "AWS_SECRET_ACCESS_KEY") not in deployed
    assert secret("training-token", "auth_token") not in deployed
