"""The Kubernetes API, as far as runs need it: plain objects in and out, and every refusal as an error with its fix.

Objects are dictionaries with the keys of their YAML. The client library is imported when a cluster is asked for the
first time: no other command has to wait for it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
import warnings
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from trainer.cluster import kubeconfig
from trainer.cluster.kubeconfig import NoKubeconfigError as NoKubeconfigError  # callers tell it from others
from trainer.errors import ClusterError, ConflictError, LostConnectionError, ResourceError, TrainerError

KubeObject = dict[str, Any]

RAY_API = ("ray.io", "v1")
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_NAMESPACE = "training"  # where `make deploy` installs the chart
IN_A_POD = "this pod's cluster"  # stands for the name of a context, where there is none
PART_OF = "app.kubernetes.io/part-of=fashion-mnist-on-ray"
JOB_TEMPLATE = f"{PART_OF},app.kubernetes.io/component=job-template"
RUN = f"{PART_OF},app.kubernetes.io/component=run"
TIMEOUTS_S = (5, 20)  # to connect, and until an answer begins
# What the commands need: verb, API group, resource. helm/training grants it to access.subjects.
RIGHTS = [
    *((verb, "ray.io", "rayjobs") for verb in ("get", "list", "create", "patch", "delete")),
    ("get", "ray.io", "rayclusters"),
    *(("get", "", resource) for resource in ("configmaps", "pods/log")),
    *(("list", "", resource) for resource in ("configmaps", "pods", "events")),
]
# No namespaced role can grant these. Without the first the diagnosis of a pending pod is less exact; without the other
# --namespace must be given where the context's namespace is another.
OPTIONAL_RIGHTS = [("list", "", "nodes"), ("list", "", "configmaps of all namespaces")]


class AlreadyExistsError(ConflictError):
    """An object of this name exists."""


class ForbiddenError(ClusterError):
    """This user may not do that."""


class ContainerNotStartedError(ClusterError):
    """The container has no log yet."""


class KubeClient:
    """A client for one namespace of one cluster: by a context of the kubeconfig, in a pod by its service account.

    Every method raises LostConnectionError if the API server is unreachable, and ClusterError if it refuses.
    """

    def __init__(self, context: str | None = None, namespace: str | None = None):
        api, name, default_namespace = _connect(context)
        self._api = api
        self._clock_ahead_s = 0.0
        self.context = name
        self.namespace = namespace or default_namespace or DEFAULT_NAMESPACE
        self._namespace_was_named = namespace is not None

    @property
    def clock_ahead_s(self) -> float:
        """How far the cluster's clock is ahead of this machine's, in seconds; known after the first answer."""
        return self._clock_ahead_s

    @property
    def now(self) -> float:
        """The time on the cluster, in seconds since 1970: its objects carry times of that clock."""
        return time.time() + self._clock_ahead_s

    def find_namespace(self) -> str:
        """Go to the one namespace with a release of the chart, unless one was named or the context's has one.

        Return what to tell the user, or an empty string: minikube's and kind's contexts are in `default`.

        Raises:
            ClusterError: several other namespaces have a release, or this user may not look into them.
        """
        if self._namespace_was_named:
            return ""
        place = f"namespace: {self.namespace} of {self.context}"
        try:
            if self._list("list_namespaced_config_map", label_selector=JOB_TEMPLATE):
                return ""
            without = f"{place} has no release of helm/training"
        except ForbiddenError:
            without = f"{place} does not show you whether it has a release of helm/training"
        try:
            answer = self._core("list_config_map_for_all_namespaces", label_selector=JOB_TEMPLATE)
        except LostConnectionError:
            raise
        except ClusterError:
            raise ClusterError(
                f"{without}, and you may not look into others", "name the right one with --namespace"
            ) from None
        found = sorted({config_map["metadata"]["namespace"] for config_map in (answer or {"items": []})["items"]})
        if len(found) > 1:
            raise ClusterError(f"{without}; {', '.join(found)} have one", f"name one, as in --namespace {found[0]}")
        if not found:  # runs may outlive the chart; the commands that need it say that it is missing
            return ""
        self.namespace = found[0]
        return f"Namespace {self.namespace} of {self.context}, the only one with a release of helm/training."

    def job_templates(self) -> tuple[str, dict[str, str]]:
        """Return the name of the chart's release in this namespace, and its job templates by key.

        Raises:
            ClusterError: the namespace has no release, or more than one.
        """
        suffix = "-rayjob"
        config_maps = self._list("list_namespaced_config_map", label_selector=JOB_TEMPLATE)
        releases = [config_map["metadata"]["name"].removesuffix(suffix) for config_map in config_maps]
        if len(releases) != 1:
            number = f"more than one release of helm/training ({', '.join(releases)})" if releases else ""
            raise ClusterError(
                f"namespace: {self.namespace} of {self.context} has {number or 'no release of helm/training'}",
                "name the right one with --namespace, or install the chart there: make deploy",
            )
        return releases[0], config_maps[0]["data"]

    def train_settings(self, release: str) -> str:
        """Return the release's ``train.yaml``: the settings of all runs in this namespace."""
        config_map = self._core("read_namespaced_config_map", f"{release}-config", self.namespace)
        return str((config_map or {}).get("data", {}).get("train.yaml", ""))

    def rayjob(self, name: str) -> KubeObject | None:
        """Return the RayJob of this name, or None if there is none."""
        job: KubeObject | None = self._ray("get_namespaced_custom_object", "rayjobs", name)
        return job

    def rayjobs(self) -> list[KubeObject]:
        """Return the RayJobs of all runs."""
        answer = self._ray("list_namespaced_custom_object", "rayjobs", label_selector=RUN)
        return list((answer or {"items": []})["items"])

    def raycluster(self, name: str) -> KubeObject | None:
        """Return the RayCluster of this name, or None if there is none."""
        cluster: KubeObject | None = self._ray("get_namespaced_custom_object", "rayclusters", name)
        return cluster

    def create_rayjob(self, job: KubeObject, dry_run: bool = False) -> KubeObject:
        """Create a RayJob; with `dry_run`, only ask whether it would be admitted.

        Raises:
            AlreadyExistsError: there is one of this name.
            ClusterError: KubeRay is not installed or does not know a field, or admission refuses the RayJob.
        """
        options = {"dry_run": "All"} if dry_run else {}
        created: KubeObject | None = self._ray(
            "create_namespaced_custom_object", "rayjobs", job, field_validation="Strict", **options
        )
        if created is None:
            raise ClusterError(
                f"KubeRay: {self.context} does not know rayjobs.ray.io", "install the operator: make install-platform"
            )
        return created

    def patch_rayjob(self, name: str, changes: KubeObject) -> None:
        """Merge changes into a RayJob; if it no longer exists, do nothing."""
        merge = {"_content_type": "application/merge-patch+json"}
        self._ray("patch_namespaced_custom_object", "rayjobs", name, changes, **merge)

    def annotate_rayjob(self, name: str, annotations: Mapping[str, str]) -> None:
        """Put annotations on a RayJob."""
        self.patch_rayjob(name, {"metadata": {"annotations": dict(annotations)}})

    def delete_rayjob(self, job: KubeObject) -> bool:
        """Delete exactly this RayJob, and return whether it still existed; another one of its name stays."""
        metadata = job["metadata"]
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            return bool(self._ray("delete_namespaced_custom_object", "rayjobs", metadata["name"], body=options))
        except ConflictError:  # another one of this name
            return False

    def pods(self) -> list[KubeObject]:
        """Return all pods of runs: heads, workers, submitters."""
        return self._list("list_namespaced_pod", label_selector=PART_OF)

    def events(self) -> list[KubeObject]:
        """Return the namespace's events; Kubernetes keeps them for an hour."""
        return self._list("list_namespaced_event")

    def nodes(self) -> list[KubeObject] | None:
        """Return all nodes, or None if this user may not list them."""
        try:
            return list((self._core("list_node") or {"items": []})["items"])
        except LostConnectionError:
            raise
        except ClusterError:
            return None

    def pod_log(self, pod: str, container: str, since_s: int | None = None) -> str:
        """Return a container's log, each line after its time; empty before the container starts, or once it is gone."""
        limits = {} if since_s is None else {"since_seconds": max(1, since_s)}
        options = {"container": container, "timestamps": True, **limits}
        try:
            log = self._core("read_namespaced_pod_log", pod, self.namespace, as_json=False, **options)
        except ContainerNotStartedError:
            return ""
        return log.decode(errors="replace") if isinstance(log, bytes) else ""

    def is_allowed(self, verb: str, group: str, resource: str) -> bool:
        """Return whether this user may do this in the namespace."""
        from kubernetes import client

        kind, _, subresource = resource.partition("/")
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": kind,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._ask(client.AuthorizationV1Api(self._api).create_self_subject_access_review, review)
        return bool(answer["status"]["allowed"])

    def _list(self, call: str, **selectors: str) -> list[KubeObject]:
        return list((self._core(call, self.namespace, **selectors) or {"items": []})["items"])

    def _core(self, call: str, *arguments: Any, **options: Any) -> Any:
        from kubernetes import client

        return self._ask(getattr(client.CoreV1Api(self._api), call), *arguments, **options)

    def _ray(self, call: str, resource: str, *arguments: Any, **options: Any) -> Any:
        from kubernetes import client

        path = (*RAY_API, self.namespace, resource)
        return self._ask(getattr(client.CustomObjectsApi(self._api), call), *path, *arguments, **options)

    def _ask(self, call: Callable[..., Any], *arguments: Any, as_json: bool = True, **options: Any) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = call(*arguments, _preload_content=False, _request_timeout=TIMEOUTS_S, **options)
            content = answer.data
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._refusal(error) from None
        except (HTTPError, OSError) as error:
            proxy = self._api.configuration.proxy
            proxy = f" through the proxy {_without_password(proxy)}" if proxy else ""
            raise LostConnectionError(
                f"cluster: the API server of {self.context} at {self._api.configuration.host} is unreachable{proxy} "
                f"({_reason(error)})",
                "check the network, or name another cluster with --context",
            ) from None
        if date := answer.headers.get("Date"):
            self._clock_ahead_s = parsedate_to_datetime(date).timestamp() - time.time()
        return json.loads(content) if as_json else content

    def _refusal(self, error: Any) -> TrainerError:
        where = f"{self.namespace} of {self.context}"
        return refusal(error.status, _message(error), where) if error.status else broken_tls(_message(error), where)


def broken_tls(message: str, where: str) -> TrainerError:
    """Return what it means that the client has a message but no HTTP status: TLS failed."""
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return ClusterError(
            f"cluster: the kubeconfig does not trust the certificate of {where} ({message})", "get a new kubeconfig"
        )
    return LostConnectionError(f"cluster: the API server of {where} closed the connection ({message})", "try again")


def refusal(status: int, message: str, where: str) -> TrainerError:
    """Return what an API server's refusal means, by its HTTP status and message; `where` is the namespace."""
    denied = re.search(r'User "([^"]+)" cannot (\w+) resource "([^"]+)"', message)
    if status == 401:
        return ClusterError(f"rights: {where} does not accept these credentials", "log in again, as for kubectl")
    if denied:
        return ForbiddenError(
            f"rights: {denied[1]} may not {denied[2]} {denied[3]} in {where}",
            "ask the cluster's administrator to add this user to access.subjects in the values of helm/training",
        )
    if status == 409:
        return AlreadyExistsError(f"{where}: {message}")
    if "exceeded quota" in message:
        return ResourceError(
            f"quota: {where} refuses the object: {message}", "wait for other runs to end, or have the quota raised"
        )
    if status == 403 or "admission webhook" in message or "ValidatingAdmissionPolicy" in message:
        return ClusterError(f"admission: {where} refuses the object: {message}", "see the message of the policy above")
    if unknown := re.search(r'unknown field "([^"]+)"', message):
        return ClusterError(
            f"KubeRay: {where} does not know the field {unknown[1]} of a RayJob: its CRDs are older than the chart",
            "kubectl apply the CRDs of the version in k8s/platform/versions.env",
        )
    if status == 400 and re.search("waiting to start|is not available", message):
        return ContainerNotStartedError(message)
    if status == 429 or status >= 500:
        return LostConnectionError(f"cluster: the API server of {where} answers {status}: {message}", "try again")
    return ClusterError(f"cluster: {where} refuses the object ({status}): {message}", "correct the field it names")


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return " ".join(str(error.body or error.reason).split())


def _reason(error: Exception) -> str:
    # urllib3 nests its errors: "HTTPConnectionPool(...): Max retries exceeded ... (NewConnectionError(...: refused))"
    text = str(getattr(error, "reason", None) or error)
    reason = re.sub(r"\[Errno -?\d+\] ", "", text.rsplit(": ", 1)[-1]).strip('()"')[:200]
    return reason + ")" * (reason.count("(") - reason.count(")"))


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _connect(context: str | None) -> tuple[Any, str, str | None]:
    """Return a client of the API, the context's name, and its namespace if it has one."""
    import urllib3
    from kubernetes import client

    settings = client.Configuration()
    settings.retries = False  # a follower retries, and says so
    if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        name, namespace = _load_service_account(settings)
    else:
        name, namespace = kubeconfig.load(context, settings)
    if not settings.verify_ssl:  # by the kubeconfig: kubectl does not warn of it at each request either
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.DependencyWarning)  # the error below says it
            return client.ApiClient(settings), name, namespace
    except (urllib3.exceptions.HTTPError, AssertionError, ImportError, ValueError) as error:
        raise ClusterError(
            f"cluster: the proxy {_without_password(settings.proxy)} before the API server of {name} cannot be used "
            f"({error})",
            "correct proxy-url in the kubeconfig, or HTTPS_PROXY; one for SOCKS needs the package PySocks",
        ) from None


def _load_service_account(settings: Any) -> tuple[str, str | None]:
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            f"service account: this pod has no usable token in {SERVICE_ACCOUNT} ({error})",
            "set automountServiceAccountToken in its spec, or KUBECONFIG",
        ) from None
    namespace = SERVICE_ACCOUNT / "namespace"
    return IN_A_POD, namespace.read_text().strip() if namespace.exists() else None


def kubectl(kube: KubeClient) -> str:
    """Return the command kubectl with its options for a client's cluster and namespace, quoted for a shell."""
    context = [] if kube.context == IN_A_POD else ["--context", kube.context]
    return shlex.join(["kubectl", *context, "-n", kube.namespace])
