"""The kubeconfig: which API server, as whom. Every way in which it can be wrong is an error that names file and entry.

The files are read and merged here as kubectl does it, and credential plugins are run here: the client library takes a
missing user for an anonymous one, writes a plugin's failure to the log and goes on without credentials.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import ClusterError
from trainer.observe.text import clean

DEFAULT = "~/.kube/config"
OTHER_FILE = "set KUBECONFIG to another file, or correct this one"
PLUGIN_MAY_TAKE_S = 30.0  # it asks a server for a token
PERSON_MAY_TAKE_S = 300.0  # it asks a person to log in
RENEW_BEFORE_S = 60.0
SHOWN = 300  # characters of what a plugin says


class NoKubeconfigError(ClusterError):
    """No cluster was named, and no kubeconfig names one."""


@dataclass(frozen=True)
class Entry:
    """A context, cluster or user of a kubeconfig: its name, its content, and its file, which its paths start from."""

    kind: str
    name: str
    content: dict[str, Any]
    file: Path

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.file}"

    def path(self, key: str) -> Path:
        """Return a path that the entry holds."""
        return self.file.parent / str(self.content[key])


@dataclass(frozen=True)
class Credential:
    """What a credential plugin returned, as the keys of a kubeconfig's user, and until when it is valid."""

    user: dict[str, str]
    expires: float | None


def load(context: str | None, settings: Any) -> tuple[str, str | None]:
    """Fill in the client's settings from a context, by default the current one; return its name and its namespace.

    Raises:
        NoKubeconfigError: no context was named, and there is no kubeconfig, or an empty one.
        ClusterError: the kubeconfig has no such context, or what the context needs is wrong.
    """
    from kubernetes import config

    contents = _contents()
    merged = {kind: _merged(contents, kind) for kind in ("context", "cluster", "user")}
    chosen = _context(context, contents, merged["context"])
    cluster = _named_by(chosen, "cluster", merged["cluster"])
    user = _named_by(chosen, "user", merged["user"]) if chosen.content.get("user") else None
    _check_server(cluster)
    for entry in (cluster, user):
        if entry is not None:
            _check_files_and_data(entry)
    credential = _of_plugin(user, cluster) if user is not None else None
    try:
        if user is not None and credential is not None:
            config.load_kube_config_from_dict(
                _alone(chosen, cluster, user, credential), chosen.name, client_configuration=settings
            )
            _renew(settings, user, cluster, credential)
        else:
            files = os.pathsep.join(str(file) for file in contents)
            config.load_kube_config(files, context=chosen.name, client_configuration=settings)
    except (
        config.ConfigException,
        yaml.YAMLError,
        OSError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise ClusterError(f"kubeconfig: {chosen} cannot be used ({_first_line(error)})", OTHER_FILE) from None
    _check_certificates(settings, cluster, user)
    namespace = chosen.content.get("namespace")
    return chosen.name, None if namespace is None else str(namespace)


# ---- the files -------------------------------------------------------------------------------------------------------


def _paths() -> list[Path]:
    paths = os.environ.get("KUBECONFIG") or DEFAULT
    # Path.expanduser fails where a user has no home
    return [Path(os.path.expanduser(path)) for path in paths.split(os.pathsep) if path]  # noqa: PTH111


def _contents() -> dict[Path, dict[str, Any]]:
    """Return the content of each file that has some; kubectl overlooks a file that does not exist."""
    contents = {file: _content(file) for file in _paths() if os.path.lexists(file)}
    return {file: content for file, content in contents.items() if content}


def _content(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClusterError(f"kubeconfig: {file} cannot be read ({error.strerror})", OTHER_FILE) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # no line of the file itself: it may be a secret
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ClusterError(f"kubeconfig: {file} is not YAML{where}", OTHER_FILE) from None
    if not isinstance(content, dict | None):
        raise ClusterError(f"kubeconfig: {file} is not a kubeconfig: it has no keys", OTHER_FILE)
    return content or {}


def _merged(contents: Mapping[Path, dict[str, Any]], kind: str) -> dict[str, Entry]:
    """Return the entries of one kind by name; of two with one name the first counts."""
    merged: dict[str, Entry] = {}
    for file, content in contents.items():
        entries = content.get(f"{kind}s") or []
        if not isinstance(entries, list):
            raise ClusterError(f"kubeconfig: {kind}s of {file} is not a list", OTHER_FILE)
        for entry in entries:
            if not isinstance(entry, dict) or "name" not in entry or not isinstance(entry.get(kind, {}), dict | None):
                raise ClusterError(f"kubeconfig: an entry in {kind}s of {file} has no name or no {kind}", OTHER_FILE)
            merged.setdefault(str(entry["name"]), Entry(kind, str(entry["name"]), entry.get(kind) or {}, file))
    return merged


def _context(name: str | None, contents: Mapping[Path, dict[str, Any]], contexts: dict[str, Entry]) -> Entry:
    files = os.pathsep.join(map(str, _paths()))
    if not contexts:
        there = any(map(os.path.lexists, _paths()))
        nothing = f"kubeconfig: {files} names no cluster" if there else f"kubeconfig: there is none at {files}"
        if name is None:
            raise NoKubeconfigError(nothing, "set KUBECONFIG to the file that names the cluster")
        raise ClusterError(f"{nothing}, so no context {name}", "set KUBECONFIG to the file that names it")
    name = name or next(filter(None, (content.get("current-context") for content in contents.values())), None)
    if name is None:
        raise ClusterError(
            f"context: {files} has no current-context, but {', '.join(contexts)}", "name one of these with --context"
        )
    if name not in contexts:
        raise ClusterError(
            f"context: {name} is not in the kubeconfig {files}, which has {', '.join(contexts)}",
            "name one of these with --context",
        )
    return contexts[name]


def _named_by(context: Entry, kind: str, known: dict[str, Entry]) -> Entry:
    name = context.content.get(kind)
    if not name:
        raise ClusterError(f"kubeconfig: {context} names no {kind}", OTHER_FILE)
    if str(name) not in known:
        raise ClusterError(
            f"kubeconfig: {context} names the {kind} {name}, which is missing (there is {', '.join(known) or 'none'})",
            OTHER_FILE,
        )
    return known[str(name)]


# ---- what they hold --------------------------------------------------------------------------------------------------


def _check_server(cluster: Entry) -> None:
    server = cluster.content.get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise ClusterError(f"kubeconfig: server of {cluster} is {server!r}, and must be a URL", OTHER_FILE)


def _check_files_and_data(entry: Entry) -> None:
    """Check that files which an entry names can be read, and that what it holds in base64 is."""
    keys = ("certificate-authority", "client-certificate", "client-key")
    for key in (*keys, "tokenFile"):
        if entry.content.get(key) and not entry.content.get(f"{key}-data"):
            try:
                entry.path(key).read_bytes()
            except OSError as error:
                raise ClusterError(
                    f"kubeconfig: {key} of {entry}: {entry.path(key)} cannot be read ({error.strerror})", OTHER_FILE
                ) from None
    for key in keys:
        data = entry.content.get(f"{key}-data")
        if data:
            try:
                base64.b64decode("".join(str(data).split()), validate=True)
            except ValueError:
                raise ClusterError(f"kubeconfig: {key}-data of {entry} is not base64", OTHER_FILE) from None
    if "auth-provider" in entry.content and (entry.content["auth-provider"] or {}).get("name") != "oidc":
        raise ClusterError(
            f"kubeconfig: {entry} uses an auth-provider, which Kubernetes 1.26 has removed",
            "get a new kubeconfig from the cluster's provider",
        )


def _check_certificates(settings: Any, cluster: Entry, user: Entry | None) -> None:
    """Check what TLS will read: it would fail at the first request, and name no file."""
    tls = ssl.create_default_context()
    if settings.ssl_ca_cert:
        try:
            tls.load_verify_locations(settings.ssl_ca_cert)
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise ClusterError(
                f"kubeconfig: certificate-authority of {cluster} is no certificate", OTHER_FILE
            ) from None
    if settings.cert_file:
        try:
            tls.load_cert_chain(settings.cert_file, settings.key_file, password="")  # it must not ask for one
        except (OSError, ValueError, TypeError):
            raise ClusterError(
                f"kubeconfig: client-certificate and client-key of {user} are no certificate with its key", OTHER_FILE
            ) from None


# ---- credential plugins ----------------------------------------------------------------------------------------------


def _of_plugin(user: Entry, cluster: Entry) -> Credential | None:
    """Return the credential of a user's plugin, or None if it has none, or a token beside it, which counts."""
    plugin = user.content.get("exec")
    if plugin is None or user.content.get("token") or user.content.get("tokenFile"):
        return None
    if not isinstance(plugin, dict) or not plugin.get("command") or not plugin.get("apiVersion"):
        raise ClusterError(f"kubeconfig: exec of {user} needs command and apiVersion", OTHER_FILE)
    command = str(plugin["command"])
    if os.sep in command:
        command = str(user.file.parent / command)
    if not _has_lists(plugin, cluster):
        raise ClusterError(f"kubeconfig: exec of {user} needs args, env and extensions as lists", OTHER_FILE)
    interactive = plugin.get("interactiveMode") != "Never" and sys.stdin.isatty() and sys.stderr.isatty()
    where = f"exec: {command} of {user}"
    spec = {"interactive": interactive} | ({"cluster": _about(cluster)} if plugin.get("provideClusterInfo") else {})
    info = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
    more = {str(item["name"]): str(item["value"]) for item in plugin.get("env") or []}
    environment = {**os.environ, **more, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    if shutil.which(command, path=environment.get("PATH")) is None:
        hint = " ".join(clean(plugin.get("installHint") or "install it, as for kubectl").split())
        raise ClusterError(f"{where} is not installed", hint)
    arguments = [command, *map(str, plugin.get("args") or [])]
    return _credential(_output(arguments, environment, interactive, where), str(plugin["apiVersion"]), where)


def _has_lists(plugin: dict[str, Any], cluster: Entry) -> bool:
    arguments, variables = plugin.get("args") or [], plugin.get("env") or []
    extensions = cluster.content.get("extensions") or []
    if not all(isinstance(each, list) for each in (arguments, variables, extensions)):
        return False
    return all(isinstance(each, dict) and {"name", "value"} <= set(each) for each in variables) and all(
        isinstance(each, dict) for each in extensions
    )


def _about(cluster: Entry) -> dict[str, Any]:
    """Return a cluster as a plugin gets it, with what an extension of this name holds for it."""
    extensions = cluster.content.get("extensions") or []
    own = [each.get("extension") for each in extensions if each.get("name") == "client.authentication.k8s.io/exec"]
    about = {key: value for key, value in cluster.content.items() if key not in ("extensions", "certificate-authority")}
    if cluster.content.get("certificate-authority") and "certificate-authority-data" not in about:
        content = cluster.path("certificate-authority").read_bytes()
        about["certificate-authority-data"] = base64.b64encode(content).decode()
    return about | {"config": own[0]} if own else about


def _output(arguments: list[str], environment: Mapping[str, str], interactive: bool, where: str) -> str:
    """Return what a plugin prints. One that may talk to a person has the terminal, as under kubectl."""
    patience_s = PERSON_MAY_TAKE_S if interactive else PLUGIN_MAY_TAKE_S
    try:
        process = subprocess.Popen(  # noqa: S603 # what the kubeconfig says, as kubectl does
            arguments,
            env=environment,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if interactive else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=not interactive,
        )
    except OSError as error:
        raise ClusterError(f"{where} cannot be started ({error.strerror})", "install it again") from None
    with process:
        try:
            output, said = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            if interactive:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
            raise ClusterError(
                f"{where} does not answer within {patience_s:g} s", "run kubectl get pods, which uses it as well"
            ) from None
    if process.returncode != 0:
        last = " ".join(clean(said or "its message is above").split())[-SHOWN:]
        raise ClusterError(
            f"{where} failed with exit code {process.returncode} ({last})", "log in again, as for kubectl"
        )
    return output


def _credential(output: str, version: str, where: str) -> Credential:
    from kubernetes.config.dateutil import parse_rfc3339

    # what it prints is never shown: it may be a token
    try:
        answer = json.loads(output)
        status = answer["status"]
        found = str(answer["apiVersion"])
        token, certificate, key = (status.get(k) for k in ("token", "clientCertificateData", "clientKeyData"))
        expires = status.get("expirationTimestamp")
        until = parse_rfc3339(str(expires)).timestamp() if expires else None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ClusterError(f"{where} prints no ExecCredential", "log in again, as for kubectl") from None
    if found != version:
        raise ClusterError(f"{where} answers in {found}, and apiVersion is {version}", "correct exec.apiVersion")
    user = {"token": str(token)} if token else {}
    if certificate and key:
        user |= {
            f"client-{name}-data": base64.b64encode(str(text).encode()).decode()
            for name, text in (("certificate", certificate), ("key", key))
        }
    if not user:
        raise ClusterError(f"{where} prints an ExecCredential without a token", "log in again, as for kubectl")
    return Credential(user, until)


def _alone(context: Entry, cluster: Entry, user: Entry, credential: Credential) -> dict[str, Any]:
    """Return a kubeconfig of one context, with a plugin's credential in the place of the plugin."""
    about = dict(cluster.content)
    if about.get("certificate-authority"):
        about["certificate-authority"] = str(cluster.path("certificate-authority").absolute())
    return {
        "current-context": context.name,
        "contexts": [{"name": context.name, "context": {"cluster": cluster.name, "user": user.name}}],
        "clusters": [{"name": cluster.name, "cluster": about}],
        "users": [{"name": user.name, "user": credential.user}],
    }


def _renew(settings: Any, user: Entry, cluster: Entry, credential: Credential) -> None:
    """Let the client ask the plugin again before its token expires: a run is followed for hours."""

    def renew(settings: Any) -> None:
        nonlocal credential
        if credential.expires is not None and time.time() > credential.expires - RENEW_BEFORE_S:
            credential = _of_plugin(user, cluster) or credential
        if "token" in credential.user:
            settings.api_key["BearerToken"] = f"Bearer {credential.user['token']}"

    settings.refresh_api_key_hook = renew


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
