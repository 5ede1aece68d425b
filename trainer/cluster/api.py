"""The Kubernetes API as the commands for runs on a cluster need it: plain objects, and every refusal as a sentence.

Objects are dictionaries with the keys of their YAML. The client library is imported when a cluster is asked for the
first time: nothing else of the trainer waits for it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from trainer.errors import ClusterError, ConflictError, LostConnectionError, ResourceError, TrainerError

Object = dict[str, Any]

RAY = ("ray.io", "v1")
NAMESPACE = "training"  # where `make deploy` installs the chart
OURS = "app.kubernetes.io/part-of=fashion-mnist-on-ray"
TEMPLATE = "app.kubernetes.io/component=job-template"
RUNS = f"{OURS},app.kubernetes.io/component=run"
ANSWER_S = (5, 20)  # to connect, and for an answer to begin
# what following a run needs, as helm/training gives it to access.subjects: verb, API group, resource
RIGHTS = [
    *((verb, "ray.io", "rayjobs") for verb in ("get", "list", "create", "patch", "delete")),
    *(("get", "", resource) for resource in ("configmaps", "pods/log")),
    *(("list", "", resource) for resource in ("configmaps", "pods", "events")),
]


class TakenError(ConflictError):
    """There is an object of this name."""


class Cluster:
    """One namespace of one cluster, through a context of the kubeconfig; in a pod, through its service account.

    Every method raises LostConnectionError if the API server does not answer, and ClusterError if it refuses.
    """

    def __init__(self, context: str | None = None, namespace: str | None = None):
        self._api, self.context, own = _connect(context)
        self.namespace = namespace or own or NAMESPACE
        self._ahead = 0.0  # of the cluster's clock before this machine's, in seconds

    @property
    def ahead(self) -> float:
        """How far the cluster's clock is ahead of this machine's, in seconds; known after the first answer."""
        return self._ahead

    @property
    def now(self) -> float:
        """The time on the cluster, in seconds since 1970: its objects are stamped with it."""
        return time.time() + self._ahead

    def template(self) -> tuple[str, dict[str, str]]:
        """The chart's release in this namespace, and its job templates by key.

        Raises:
            ClusterError: there is none, or more than one.
        """
        found = self._list("list_namespaced_config_map", label_selector=f"{OURS},{TEMPLATE}")
        if len(found) != 1:
            releases = ", ".join(each["metadata"]["name"].removesuffix("-rayjob") for each in found)
            how = f"more than one release of helm/training ({releases})" if found else "no release of helm/training"
            raise ClusterError(
                f"namespace: {self.namespace} of {self.context} holds {how}; name the right one with --namespace, "
                "or install the chart there: make deploy."
            )
        return found[0]["metadata"]["name"].removesuffix("-rayjob"), found[0]["data"]

    def settings(self, release: str) -> str:
        """The release's ``train.yaml``: what all runs here begin with."""
        found = self._core("read_namespaced_config_map", f"{release}-config", self.namespace)
        return str((found or {}).get("data", {}).get("train.yaml", ""))

    def job(self, name: str) -> Object | None:
        """The RayJob of this name."""
        found: Object | None = self._ray("get_namespaced_custom_object", "rayjobs", name)
        return found

    def jobs(self) -> list[Object]:
        """All RayJobs that are runs of ours."""
        found = self._ray("list_namespaced_custom_object", "rayjobs", label_selector=RUNS)
        return list((found or {"items": []})["items"])

    def ray_cluster(self, name: str) -> Object | None:
        """The RayCluster of this name."""
        found: Object | None = self._ray("get_namespaced_custom_object", "rayclusters", name)
        return found

    def create(self, job: Object, dry_run: bool = False) -> Object:
        """Create a RayJob, or only ask whether it would be admitted.

        Raises:
            TakenError: there is one of this name.
            ClusterError: KubeRay's definition is missing or knows a field not, or admission refuses it.
        """
        dry = {"dry_run": "All"} if dry_run else {}
        made: Object | None = self._ray(
            "create_namespaced_custom_object", "rayjobs", job, field_validation="Strict", **dry
        )
        if made is None:
            raise ClusterError(
                f"KubeRay: {self.context} does not know rayjobs.ray.io; install its operator: make platform."
            )
        return made

    def patch(self, name: str, changes: Object) -> None:
        """Merge changes into a RayJob; one that is gone is no error."""
        merge = {"_content_type": "application/merge-patch+json"}
        self._ray("patch_namespaced_custom_object", "rayjobs", name, changes, **merge)

    def annotate(self, name: str, values: Mapping[str, str]) -> None:
        """Put annotations on a RayJob."""
        self.patch(name, {"metadata": {"annotations": dict(values)}})

    def delete(self, job: Object) -> bool:
        """Remove a RayJob if it is still this one; whether it was."""
        meta = job["metadata"]
        options = {"preconditions": {"uid": meta["uid"]}, "propagationPolicy": "Background"}
        try:
            return bool(self._ray("delete_namespaced_custom_object", "rayjobs", meta["name"], body=options))
        except ConflictError:  # another of the same name
            return False

    def pods(self) -> list[Object]:
        """All pods of runs: heads, workers, submitters."""
        return self._list("list_namespaced_pod", label_selector=OURS)

    def events(self) -> list[Object]:
        """Kubernetes' events of the last hour in the namespace."""
        return self._list("list_namespaced_event")

    def nodes(self) -> list[Object] | None:
        """All nodes, or None if this user may not see them."""
        try:
            return list((self._core("list_node") or {"items": []})["items"])
        except LostConnectionError:
            raise
        except ClusterError:
            return None

    def log(self, pod: str, container: str, since_s: int | None = None) -> str:
        """The log of a container, each line after its time; empty if it has none yet, or no longer."""
        limits = {} if since_s is None else {"since_seconds": max(1, since_s)}
        arguments = {"container": container, "timestamps": True, **limits}
        try:
            found = self._core("read_namespaced_pod_log", pod, self.namespace, as_json=False, **arguments)
        except NotYetError:
            return ""
        return (found or b"").decode(errors="replace") if isinstance(found, bytes | None) else ""

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this user may do this in the namespace."""
        from kubernetes import client

        resource, _, sub = resource.partition("/")
        what = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        call = client.AuthorizationV1Api(self._api).create_self_subject_access_review
        answer = self._ask(call, {**review, "spec": {"resourceAttributes": what}})
        return bool(answer["status"]["allowed"])

    def _list(self, call: str, **selectors: str) -> list[Object]:
        return list((self._core(call, self.namespace, **selectors) or {"items": []})["items"])

    def _core(self, call: str, *arguments: Any, **options: Any) -> Any:
        from kubernetes import client

        return self._ask(getattr(client.CoreV1Api(self._api), call), *arguments, **options)

    def _ray(self, call: str, kind: str, *arguments: Any, **options: Any) -> Any:
        from kubernetes import client

        place = (*RAY, self.namespace, kind)
        return self._ask(getattr(client.CustomObjectsApi(self._api), call), *place, *arguments, **options)

    def _ask(self, call: Callable[..., Any], *arguments: Any, as_json: bool = True, **options: Any) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = call(*arguments, _preload_content=False, _request_timeout=ANSWER_S, **options)
            content = answer.data
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._refusal(error) from None
        except (HTTPError, OSError) as error:
            raise LostConnectionError(
                f"cluster: the API server of {self.context} at {self._api.configuration.host} does not answer "
                f"({_reason(error)}); check the network, or name another with --context."
            ) from None
        if date := answer.headers.get("Date"):
            self._ahead = parsedate_to_datetime(date).timestamp() - time.time()
        return json.loads(content) if as_json else content

    def _refusal(self, error: Any) -> TrainerError:
        where = f"{self.namespace} of {self.context}"
        return refusal(error.status, _message(error), where) if error.status else broken_off(_message(error), where)


class NotYetError(ClusterError):
    """The container has not begun."""


def broken_off(message: str, where: str) -> TrainerError:
    """What it means that the client has a message but no HTTP status: TLS failed."""
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return ClusterError(
            f"cluster: the certificate of {where} is not one that the kubeconfig trusts ({message}); get a new one."
        )
    return LostConnectionError(f"cluster: the API server of {where} broke off ({message}); try again.")


def refusal(status: int, message: str, where: str) -> TrainerError:
    """What an API server's refusal means: by HTTP status and its own words, in a namespace `where`."""
    denied = re.search(r'User "([^"]+)" cannot (\w+) resource "([^"]+)"', message)
    if status == 401:
        return ClusterError(f"rights: {where} does not accept these credentials; log in again, as for kubectl.")
    if denied:
        return ClusterError(
            f"rights: {denied[1]} may not {denied[2]} {denied[3]} in {where}; whoever runs the cluster adds a user to "
            "access.subjects in the values of helm/training."
        )
    if status == 409:
        return TakenError(f"{where}: {message}")
    if "exceeded quota" in message:
        return ResourceError(f"quota: {where} refuses it: {message}; let other runs end, or have the quota raised.")
    if status == 403 or "admission webhook" in message:
        return ClusterError(f"admission: {where} refuses it: {message}; what refuses says what it wants.")
    if unknown := re.search(r'unknown field "([^"]+)"', message):
        return ClusterError(
            f"KubeRay: {where} does not know the field {unknown[1]} of a RayJob; its definitions are older than the "
            "operator: kubectl apply those of the version in k8s/platform/versions.env."
        )
    if status == 400 and re.search("waiting to start|is not available", message):
        return NotYetError(message)
    if status == 429 or status >= 500:
        return LostConnectionError(f"cluster: the API server of {where} answers {status}: {message}; try again.")
    return ClusterError(f"cluster: {where} refuses ({status}): {message}; correct what it names.")


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return " ".join(str(error.body or error.reason).split())


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error)
    return re.sub(r"^\[Errno \d+\] ", "", text.rsplit(": ", 1)[-1].strip("()"))[:200]


def _connect(context: str | None) -> tuple[Any, str, str | None]:
    """A client of the API, the context's name, and its namespace if it has one."""
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False  # who follows a run tries again, and says so
    try:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=settings)
            return client.ApiClient(settings), "this pod's cluster", None
        file = os.environ.get("KUBECONFIG")
        contexts, active = config.list_kube_config_contexts(file)
        known = {each["name"]: each["context"].get("namespace") for each in contexts}
        name = context or (active or {}).get("name")
        if name not in known:
            raise ClusterError(f"context: {name} is not in the kubeconfig, which has {', '.join(known) or 'none'}.")
        config.load_kube_config(file, context=name, client_configuration=settings)
    except config.ConfigException as error:
        raise ClusterError(
            f"context: the kubeconfig cannot be used ({error}); set KUBECONFIG, or name a context with --context."
        ) from None
    return client.ApiClient(settings), str(name), known[name]
