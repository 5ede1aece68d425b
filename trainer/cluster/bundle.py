"""Everything that is known of a run in one file, for a bug report: its record, logs, Kubernetes objects and metrics.

Weights and checkpoints stay out, and so do secrets: values of variables that are named like one, of this machine's
credentials wherever they stand, and what URLs carry before an @.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.cluster.api import KubeClient, KubeObject
from trainer.errors import ConfigError, StorageError, TrainerError
from trainer.storage import layout, logs, store
from trainer.storage.record import Record
from trainer.storage.store_errors import sentences

METRICS_S = 1800.0  # of a run's end, or of now
STEP_S = 15
ANSWERS_S = 30.0
HIDDEN = "<hidden>"
SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|(^|_)KEY($|_)|ACCESS_KEY|SAS|CONNECTION_STRING", re.IGNORECASE)
# Names that look like one and are none: which Secret, not what is in it.
NO_SECRET = {
    "secretName",
    "secretRef",
    "secretKeyRef",
    "configMapKeyRef",
    "key",
    "topologyKey",
    "labelKey",
    "imagePullSecrets",
}
IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
QUERIES = ('{{__name__=~"ray_trainer_.+",run="{run}"}}', 'ALERTS{{run="{run}"}}')


def write(
    name: str,
    file: Path,
    record: Record | TrainerError,
    kube: KubeClient | TrainerError,
    prometheus: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Write what is known of a run to a ``.tar.gz``, and return the names in it.

    `record` and `kube` are errors where there are none; ``README.txt`` in the archive says what is missing and why.

    Raises:
        ConfigError: the file exists.
        StorageError: it cannot be written.
    """
    if file.exists():
        raise ConfigError(f"{file} exists", "give another name with --output, or remove it")
    missing: list[str] = []
    contents: dict[str, bytes] = {}
    for source in (lambda: _of_record(record), lambda: _of_logs(record), lambda: _of_cluster(name, kube),
                   lambda: _of_prometheus(name, record, prometheus)):  # fmt: skip
        contents |= _collected(source, missing)
    hide = _hider(environment)
    contents = {entry: hide(content) for entry, content in contents.items()}
    contents["README.txt"] = _readme(name, sorted(contents), missing).encode()
    with sentences(str(file), "written"), tarfile.open(file, "x:gz") as archive:
        for entry, content in sorted(contents.items()):
            info = tarfile.TarInfo(f"{name}/{entry}")
            info.size, info.mtime = len(content), int(time.time())
            archive.addfile(info, io.BytesIO(content))
    return sorted(contents)


def _collected(source: Callable[[], Iterator[tuple[str, bytes]]], missing: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        found.update(source())  # what came before an error stays
    except (TrainerError, OSError, ValueError) as error:
        missing.append(str(error))
    return found


def _of_record(record: Record | TrainerError) -> Iterator[tuple[str, bytes]]:
    if isinstance(record, TrainerError):
        raise record
    names = (layout.CONFIG, layout.ENVIRONMENT, *layout.GROWING, layout.RESULT, layout.EVALUATION, layout.MANIFEST)
    for name in (*names, layout.REPORT):
        content = store.read(str(record.file(name)))
        if content is not None:
            yield f"record/{name}", content


def _of_logs(record: Record | TrainerError) -> Iterator[tuple[str, bytes]]:
    if isinstance(record, TrainerError):  # which the record's own part says
        return
    for attempt in logs.attempts(record.place):
        place = logs.folder(record.place, attempt)
        for name in store.files(place):
            yield f"logs/attempt-{attempt}/{name}", store.read(store.part(place, name)) or b""


def _of_cluster(name: str, kube: KubeClient | TrainerError) -> Iterator[tuple[str, bytes]]:
    if isinstance(kube, TrainerError):
        raise kube
    job = kube.rayjob(name)
    if job is None:
        raise StorageError(f"no RayJob {name} in {kube.namespace} of {kube.context}")
    cluster = str((job.get("status") or {}).get("rayClusterName") or "")
    yield "cluster/rayjob.json", _json(without_secrets(job))
    if cluster and (found := kube.raycluster(cluster)) is not None:
        yield "cluster/raycluster.json", _json(without_secrets(found))
    pods = [pod for pod in kube.pods() if _is_of(pod, name, cluster)]
    yield "cluster/pods.json", _json([without_secrets(pod) for pod in pods])
    ours = {name, cluster, *(pod["metadata"]["name"] for pod in pods)} - {""}
    events = [event for event in kube.events() if (event.get("involvedObject") or {}).get("name") in ours]
    yield "cluster/events.json", _json(events)
    for pod in pods:
        for container in pod["spec"]["containers"]:
            entry = f"cluster/{pod['metadata']['name']}.{container['name']}.log"
            try:
                yield entry, kube.pod_log(pod["metadata"]["name"], container["name"]).encode()[-logs.MOST_BYTES :]
            except TrainerError as error:  # it has not started, or is gone
                yield entry, f"{error}\n".encode()


def _is_of(pod: KubeObject, name: str, cluster: str) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get("batch.kubernetes.io/job-name") == name or (
        cluster != "" and labels.get("ray.io/cluster") == cluster
    )


def _of_prometheus(name: str, record: Record | TrainerError, url: str | None) -> Iterator[tuple[str, bytes]]:
    if not url:
        raise StorageError("no Prometheus was given: --prometheus URL adds half an hour of metrics (make prometheus)")
    result = None if isinstance(record, TrainerError) else record.result()
    until = float(result["ended_at"]) if result else time.time()
    found = []
    for query in QUERIES:
        asked = {"query": query.format(run=name), "start": until - METRICS_S, "end": until + STEP_S, "step": STEP_S}
        address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(address, timeout=ANSWERS_S) as answer:  # noqa: S310 # the user's own address
                found += json.load(answer)["data"]["result"]
        except (urllib.error.URLError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"Prometheus at {url} does not answer as one ({error})") from None
    yield "metrics.json", _json(found)


def _is_secret(name: str) -> bool:
    """Whether what is named so is secret; an ID, a file or a mode names a secret, and is none."""
    return bool(SECRET_NAME.search(name)) and not name.upper().endswith(("_ID", "_FILE", "_MODE"))


def without_secrets(node: Any) -> Any:
    """Return an object of Kubernetes without the values of variables and keys that are named like a secret."""
    if isinstance(node, list):
        return [without_secrets(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("name"), str) and isinstance(node.get("value"), str) and _is_secret(node["name"]):
        return {**node, "value": HIDDEN}
    hidden = {key for key, value in node.items()
              if isinstance(value, str) and key not in NO_SECRET and _is_secret(key)}  # fmt: skip
    return {key: HIDDEN if key in hidden else without_secrets(value) for key, value in node.items()}


def _hider(environment: Mapping[str, str]) -> Callable[[bytes], bytes]:
    values = {value for name, value in environment.items() if _is_secret(name) and len(value) >= 6}
    known = re.compile("|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)) or r"(?!)")

    def hide(content: bytes) -> bytes:
        text = content.decode("utf-8", "surrogateescape")
        return IN_URL.sub(f"{HIDDEN}@", known.sub(HIDDEN, text)).encode("utf-8", "surrogateescape")

    return hide


def _readme(name: str, entries: list[str], missing: list[str]) -> str:
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    lines = [f"Run {name}, as `trainer bundle` {__version__} found it on {made}.", "", *entries]
    if missing:
        lines += ["", "Not here:", *(f"- {sentence}" for sentence in missing)]
    lines += [
        "",
        "Secrets are replaced by <hidden> as far as their names or values are known. Read it before you share it.",
    ]
    return "\n".join([*lines, ""])


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
