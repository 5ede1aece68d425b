"""Security as installed: restricted pods, no token where none is needed, no secret in a job, closed network."""

import copy
import json

import pytest
from support.charts import ENVIRONMENTS, clusters, env, job, one, pods, render, values_of
from support.pod_security import violations

from tools.network import Pod, reaches


def as_admitted(manifests):
    """The objects with what OpenShift puts into pods that leave it to the platform, before Pod Security is checked."""
    manifests = copy.deepcopy(manifests)
    for _, template in pods(manifests):
        context = template["spec"]["securityContext"]
        if context == {"runAsNonRoot": True}:
            context |= {"runAsUser": 1000650000, "seccompProfile": {"type": "RuntimeDefault"}}
    return manifests


# ---- pods ------------------------------------------------------------------------------------------------------------


def test_all_four_kinds_of_pod_pass_restricted_with_a_read_only_root(manifests):
    manifests = as_admitted(manifests)
    for name, template in pods(manifests):
        assert violations(template["spec"]) == [], name
    for spec in clusters(manifests):
        if spec["enableInTreeAutoscaling"]:
            # the operator puts this container into the head's pod
            autoscaler = {"name": "autoscaler", **spec["autoscalerOptions"]}
            head = spec["headGroupSpec"]["template"]["spec"]
            assert violations({**head, "containers": [autoscaler]}) == []


def test_what_ray_writes_to_is_a_volume(manifests):
    for name, template in pods(manifests):
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts["/tmp"]["emptyDir"]["sizeLimit"]
        assert env(template)["HOME"] == "/tmp"
        if name != "submitter":
            assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    for spec in clusters(manifests):
        if spec["enableInTreeAutoscaling"]:
            assert {"name": "tmp", "mountPath": "/tmp"} in spec["autoscalerOptions"]["volumeMounts"]


def test_the_checks_of_this_file_find_a_pod_that_is_not_restricted():
    spec = {"containers": [{"name": "x"}], "hostNetwork": True, "volumes": [{"name": "h", "hostPath": {}}]}
    assert len(violations(spec)) == 7


def test_on_openshift_the_platform_chooses_user_group_and_seccomp_profile():
    manifests = render(values_of("openshift"))
    containers = [spec["autoscalerOptions"] for spec in clusters(manifests)]
    for _, template in pods(manifests):
        assert template["spec"]["securityContext"] == {"runAsNonRoot": True}
        containers += template["spec"]["containers"] + template["spec"].get("initContainers", [])
    chosen_by_the_platform = {"runAsUser", "runAsGroup", "fsGroup", "seccompProfile", "seLinuxOptions"}
    for container in containers:
        assert not chosen_by_the_platform & set(container["securityContext"])


# ---- identities ------------------------------------------------------------------------------------------------------


def test_no_pod_is_given_a_token_of_the_cluster_but_the_autoscaler_has_one(manifests):
    for _, template in pods(manifests):
        assert template["spec"]["automountServiceAccountToken"] is False
        mounts = [m["mountPath"] for c in template["spec"]["containers"] for m in c["volumeMounts"]]
        assert not any(path.startswith("/var/run/secrets/kubernetes.io") for path in mounts)
    for spec in clusters(manifests):
        volumes = {volume["name"]: volume for volume in spec["headGroupSpec"]["template"]["spec"]["volumes"]}
        assert ("api-token" in volumes) is spec["enableInTreeAutoscaling"]
        if spec["enableInTreeAutoscaling"]:
            (mount,) = [m for m in spec["autoscalerOptions"]["volumeMounts"] if m["name"] == "api-token"]
            assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
            sources = volumes["api-token"]["projected"]["sources"]
            assert {key for source in sources for key in source} == {"serviceAccountToken", "configMap", "downwardAPI"}


def test_each_pod_has_its_own_service_account_from_the_chart(manifests):
    made = {m["metadata"]["name"]: m for m in manifests if m["kind"] == "ServiceAccount"}
    for name, template in pods(manifests):
        part = name if name in ("head", "submitter") else "worker"
        assert template["spec"]["serviceAccountName"].endswith(f"-{part}")
        assert template["spec"]["serviceAccountName"] in made
    assert {name.rpartition("-")[2] for name in made} == {"head", "worker", "submitter"}
    assert not any(account["automountServiceAccountToken"] for account in made.values())


def test_only_head_and_workers_have_the_cloud_identity():
    manifests = render(values_of("aks"))
    expected = values_of("aks")["identity"]
    for part in ("head", "worker"):
        assert one(manifests, "ServiceAccount", part)["metadata"]["annotations"] == expected["annotations"]
    assert "annotations" not in one(manifests, "ServiceAccount", "submitter")["metadata"]
    for name, template in pods(manifests):
        marked = "azure.workload.identity/use" in template["metadata"]["labels"]
        assert marked is (name != "submitter")


def test_no_secret_is_in_a_job_only_names_of_secrets(manifests):
    for manifest in manifests:
        if manifest["kind"] in ("RayJob", "RayCluster"):
            assert "stringData" not in json.dumps(manifest)
    for name, template in pods(manifests):
        suspicious = [key for key in env(template) if any(w in key for w in ("KEY", "SECRET", "TOKEN", "PASSWORD"))]
        assert suspicious == [], name
    assert "runtimeEnvYAML" not in job(manifests)["spec"]


def test_the_submitter_gets_no_storage_credentials():
    for name, template in pods(render(values_of("kind"))):
        assert ("envFrom" in template["spec"]["containers"][0]) is (name != "submitter")


# ---- network ---------------------------------------------------------------------------------------------------------

OPERATOR = Pod({"app.kubernetes.io/component": "kuberay-operator"}, "kuberay-system")
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
STRANGER = Pod({"app": "web"})
ELSEWHERE = Pod({"app.kubernetes.io/part-of": "fashion-mnist-on-ray", "app.kubernetes.io/component": "head"}, "other")
STORE = Pod({"app.kubernetes.io/name": "object-store"})
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
API_SERVER = Pod(namespace=None, address="172.18.0.2")
INTERNET = Pod(namespace=None, address="142.250.1.1")
METADATA = Pod(namespace=None, address="169.254.169.254")


@pytest.fixture(scope="module")
def cluster():
    """The policies on kind, and a pod of each part with the labels that the templates give it."""
    manifests = render(values_of("kind"))
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    parts = {
        name: Pod({**template["metadata"]["labels"], "app.kubernetes.io/name": "kuberay"})
        for name, template in pods(manifests)
    }
    return policies, parts


@pytest.mark.parametrize(
    ("source", "target", "ports"),
    [
        ("head", "cpu", {6379, 8080, 10002, 19999, 52365}),
        ("cpu", "head", {6379, 8265, 10002, 19999, 52365}),
        ("cpu", "gpu", {10002, 19999}),
        ("submitter", "head", {8265}),
        (OPERATOR, "head", {8265}),
        (PROMETHEUS, "head", {8080, 44217, 44227}),
        (PROMETHEUS, "cpu", {8080}),
        ("head", API_SERVER, {443, 6443}),
        ("head", STORE, {7070}),
        ("cpu", STORE, {7070}),
    ],
    ids=str,
)
def test_what_belongs_together_gets_through(cluster, source, target, ports):
    policies, parts = cluster
    source, target = (parts.get(pod, pod) if isinstance(pod, str) else pod for pod in (source, target))
    assert {port for port in ports if reaches(policies, source, target, port)} == ports


@pytest.mark.parametrize(
    ("source", "target", "ports"),
    [
        (STRANGER, "head", {6379, 8265, 10001, 8080, 44217, 44227, 52365}),
        (STRANGER, "cpu", {8080, 10002, 52365}),
        (STRANGER, "submitter", {80}),
        (ELSEWHERE, "head", {6379, 8265}),
        (OPERATOR, "head", {6379, 10001, 8080}),
        (OPERATOR, "cpu", {8265, 8080}),
        (PROMETHEUS, "head", {6379, 8265, 10001}),
        ("submitter", "head", {6379, 10001, 8080}),
        ("submitter", "cpu", {8265, 10002}),
        ("submitter", STORE, {7070}),
        ("submitter", API_SERVER, {443, 6443}),
        ("cpu", API_SERVER, {443, 6443}),
        ("cpu", "submitter", {80}),
        ("cpu", STRANGER, {80}),
        ("head", INTERNET, {80}),
        ("cpu", INTERNET, {443}),
        ("head", METADATA, {80, 443}),
        ("cpu", METADATA, {80, 443}),
    ],
    ids=str,
)
def test_what_does_not_is_kept_out(cluster, source, target, ports):
    policies, parts = cluster
    source, target = (parts.get(pod, pod) if isinstance(pod, str) else pod for pod in (source, target))
    assert {port for port in ports if reaches(policies, source, target, port)} == set()


def test_every_part_can_ask_for_names(cluster):
    policies, parts = cluster
    for pod in parts.values():
        for protocol in ("UDP", "TCP"):
            assert reaches(policies, pod, DNS, 53, protocol)
        assert not reaches(policies, pod, STRANGER, 53, "UDP")


def test_only_gke_needs_the_metadata_server():
    for cloud in ("gke", "eks", "aks"):
        manifests = render(values_of(cloud))
        policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
        worker = Pod(dict(pods(manifests))["cpu"]["metadata"]["labels"])
        assert reaches(policies, worker, INTERNET, 443)
        assert not reaches(policies, worker, Pod(namespace=None, address="10.0.0.7"), 443)
        assert reaches(policies, worker, METADATA, 80) is (cloud == "gke")


def test_on_openshift_names_come_from_the_port_of_its_dns_pods():
    manifests = render(values_of("openshift"))
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    dns = Pod({"dns.operator.openshift.io/daemonset-dns": "default"}, "openshift-dns")
    scraper = Pod({"app.kubernetes.io/name": "prometheus"}, "openshift-user-workload-monitoring")
    for name, template in pods(manifests):
        pod = Pod(template["metadata"]["labels"])
        assert all(reaches(policies, pod, dns, 5353, protocol) for protocol in ("UDP", "TCP"))
        assert not reaches(policies, pod, DNS, 53, "UDP")
        assert reaches(policies, scraper, pod, 8080) is (name != "submitter")


V6_INTERNET = Pod(namespace=None, address="2606:4700::1111")
V6_PRIVATE = Pod(namespace=None, address="fd12:3456::7")
V6_METADATA = Pod(namespace=None, address="fd00:ec2::254")
V6_LINK_LOCAL = Pod(namespace=None, address="fe80::a9fe:a9fe")


def test_addresses_of_ipv6_are_let_through_and_kept_out_as_those_of_ipv4():
    manifests = render(values_of("defaults"))
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    head, worker = (Pod(dict(pods(manifests))[name]["metadata"]["labels"]) for name in ("head", "cpu"))
    assert reaches(policies, head, V6_PRIVATE, 6443)  # the API server
    assert reaches(policies, worker, V6_INTERNET, 443)  # the object store
    assert not reaches(policies, worker, V6_PRIVATE, 443)
    for pod in (head, worker):
        assert not any(reaches(policies, pod, there, 443) for there in (V6_METADATA, V6_LINK_LOCAL))


def test_every_rule_for_all_addresses_of_ipv4_has_one_of_ipv6():
    for environment in (*ENVIRONMENTS, "defaults"):
        for policy in (m for m in render(values_of(environment)) if m["kind"] == "NetworkPolicy"):
            for rule in policy["spec"].get("egress", []):
                blocks = {peer["ipBlock"]["cidr"] for peer in rule["to"] if "ipBlock" in peer}
                assert ("0.0.0.0/0" in blocks) is ("::/0" in blocks)


def test_where_pods_have_ipv6_alone_the_dashboard_listens_on_it():
    def parameters(**network):
        return clusters(render({**values_of("defaults"), "network": network}))[0]["headGroupSpec"]["rayStartParams"]

    assert "dashboard-host" not in parameters()
    assert parameters(ipFamily="IPv6")["dashboard-host"] == "::"


def test_without_policies_no_policy_is_made():
    manifests = render({**values_of("defaults"), "network": {"enabled": False}})
    assert [m for m in manifests if m["kind"] == "NetworkPolicy"] == []


# ---- submitters ------------------------------------------------------------------------------------------------------


def test_submissions_are_restricted_only_where_that_is_asked_for(environment):
    assert not [m for m in render(values_of(environment)) if m["kind"].startswith("ValidatingAdmission")]


def test_a_restriction_is_for_the_releases_namespace_alone_and_by_its_name():
    manifests = render({**values_of("defaults"), "access": {"restrict": True}})
    policy, binding = (one(manifests, f"ValidatingAdmissionPolicy{kind}") for kind in ("", "Binding"))
    assert policy["metadata"]["name"] == binding["spec"]["policyName"] == "training-training-submit"
    selector = binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
    assert selector == {"kubernetes.io/metadata.name": "training"}
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert policy["spec"]["failurePolicy"] == "Fail"


# ---- what clusters ask for -------------------------------------------------------------------------------------------


def test_a_bundle_of_authorities_is_mounted_where_the_store_is_read_and_named_there():
    bundle = {"configMap": "corporate-ca", "key": "bundle.pem"}
    values = values_of("defaults")
    manifests = render({**values, "storage": {**values["storage"], "caBundle": bundle}})
    for name, template in pods(manifests):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["name"]: mount for mount in template["spec"]["containers"][0]["volumeMounts"]}
        if name == "submitter":
            assert "ca-bundle" not in volumes
            continue
        assert volumes["ca-bundle"]["configMap"] == {"name": "corporate-ca"}
        assert env(template)["SSL_CERT_FILE"] == f"{mounts['ca-bundle']['mountPath']}/bundle.pem"


def test_a_proxy_is_for_the_store_alone_and_its_address_is_let_through():
    to = [{"ipBlock": {"cidr": "10.1.2.3/32"}}]
    values = {**values_of("defaults"), "proxy": {"https": "http://proxy:3128"}}
    manifests = render({**values, "network": {"proxy": {"to": to}}})
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    for name, template in pods(manifests):
        variables = env(template)
        if name == "submitter":
            assert not any("PROXY" in key.upper() for key in variables)
            continue
        assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://proxy:3128"
        assert "HTTP_PROXY" not in variables
        passed_by = variables["NO_PROXY"].split(",")
        assert {".svc", "127.0.0.1", "169.254.0.0/16", "10.0.0.0/8"} <= set(passed_by)
        assert reaches(policies, Pod(template["metadata"]["labels"]), Pod(namespace=None, address="10.1.2.3"), 3128)
    for spec in clusters(manifests):  # it calls the API server, not through a proxy
        assert not any("PROXY" in variable["name"].upper() for variable in spec["autoscalerOptions"]["env"])


def test_without_a_proxy_none_is_named():
    for _, template in pods(render(values_of("defaults"))):
        assert not any("PROXY" in key.upper() for key in env(template))


def test_the_submitter_and_the_test_are_placed_like_the_head():
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    place = {"affinity": affinity, "priorityClassName": "high", "runtimeClassName": "sandboxed"}
    place["nodeSelector"] = {"pool": "system"}
    manifests = render({**values_of("defaults"), "head": place})
    found = {name: template["spec"] for name, template in pods(manifests)}
    for spec in (found["head"], found["submitter"], one(manifests, "Pod", "-test")["spec"]):
        assert {key: spec[key] for key in place} == place
    assert not set(place) & set(found["cpu"])


def test_other_names_are_taken_everywhere():
    manifests = render({**values_of("kind"), "fullnameOverride": "team-a", "access": {"restrict": True}})
    assert "training-head" not in json.dumps(manifests)
    for name, template in pods(manifests):
        part = name if name in ("head", "submitter") else "worker"
        assert template["spec"]["serviceAccountName"] == f"team-a-{part}"
        assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "team-a"


def test_labels_that_are_not_kubernetes_own_have_a_prefix(manifests):
    for _, template in pods(manifests):
        assert all("/" in key for key in template["metadata"]["labels"])


def test_the_api_server_is_in_a_private_network_where_no_cluster_can_be_asked():
    manifests = render(values_of("defaults"))
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    head = Pod(dict(pods(manifests))["head"]["metadata"]["labels"])
    assert reaches(policies, head, API_SERVER, 6443)
    for address in ("142.250.1.1", "100.64.0.1", "168.63.129.16", "169.254.169.254"):
        assert not reaches(policies, head, Pod(namespace=None, address=address), 6443), address
