"""The Ray cluster that a run uses: the one that RAY_ADDRESS names, or one of this machine's own."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import trainer
from trainer.driver import interrupts
from trainer.errors import ResourceError, one_line
from trainer.training import device

OBJECT_STORE_BYTES = 200 * 2**20  # nothing of the data set passes through it
# How soon Ray Train notices things, in seconds: the one table for laptops and clusters. Ray reads them when it is
# imported in the driver, and hands them to controller and workers.
TIMINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how often the controller polls the workers: a report waits for it
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "45",  # a frozen worker is replaced after this; Ray's default is 600
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",  # of a notice of 15 s, Ray's default of 5 s would lose a third
}
# What a user's environment may say to Ray and a run must not follow, each with the reason.
OVERRIDDEN = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would start each worker with `uv run` again, and hang
    "RAY_TRAIN_V2_ENABLED": "1",  # ray_train.py extends the second version of Ray Train
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # of Ray Tune: paths would mean other places
    # Ray's page about each process that died would interrupt our lines, which say it in one
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
}
REMOVED = (
    "RAY_RUNTIME_ENV_HOOK",  # may replace the workers' environment; RAY_JOB_CONFIG_JSON_ENV_VAR is Ray's own, and stays
    # of Ray's many processes, these are not meant: the first three end them, or keep them from ending
    "PYTHONWARNINGS",
    "PYTHONDEVMODE",
    "PYTHONINSPECT",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONVERBOSE",
)
CLUSTER_ANSWERS_S = 2.0  # to a connection
JOINED_WITHIN_S = 60.0  # a head that has just started takes seconds; Ray would try for many minutes
MAX_SOCKET_PATH = 103  # bytes, on macOS; Linux has four more
PREFIX = "trainer-ray-"
SOCKET_BELOW_TEMP = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def address() -> str | None:
    """Return the address of the Ray cluster to join; None to start one on this machine."""
    given = os.environ.get("RAY_ADDRESS", "").strip()
    return None if given in ("", "local") else given


def is_own() -> bool:
    """Whether Ray is started for this command alone, on this machine."""
    return address() is None


def check_address(address: str) -> None:
    """Try to connect to a Ray cluster: Ray itself would try for minutes.

    Raises:
        ResourceError: nothing answers at `address`, or it is not the address of a Ray cluster's head.
    """
    scheme, separator, rest = address.rpartition("://")
    if separator:
        what = {"ray": "Ray Client, which cannot run Ray Train"}.get(scheme, "Ray's dashboard and Jobs API")
        host = urlsplit(f"//{rest}").hostname or "HOST"
        raise ResourceError(
            f"RAY_ADDRESS: {address} is the address of {what}",
            f"run this on the cluster, with RAY_ADDRESS={host}:6379; from outside: trainer submit",
        )
    if address == "auto":  # for Ray to find
        return
    try:
        place = urlsplit(f"//{address}")
        if not place.hostname or place.port is None:
            raise ValueError
    except ValueError:
        raise ResourceError(f"RAY_ADDRESS: {address} is not a host and a port", "write it as HOST:6379") from None
    try:
        socket.create_connection((place.hostname, place.port), timeout=CLUSTER_ANSWERS_S).close()
    except OSError as error:
        raise ResourceError(
            f"RAY_ADDRESS: no Ray cluster answers at {address} ({error.strerror or error})",
            "correct it, or unset it to train on this machine",
        ) from None


def set_timings() -> None:
    """Put TIMINGS into the environment, before Ray is imported, where they are not set; and OVERRIDDEN in any case."""
    for name, seconds in TIMINGS.items():
        os.environ.setdefault(name, seconds)
    os.environ.update(OVERRIDDEN)
    for name in REMOVED:
        os.environ.pop(name, None)
    if is_own():
        # Ray listens on this machine alone then, as it always does on macOS; its own name for that says otherwise
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # a laptop is not preempted, and the watcher is one more process
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def load() -> None:
    """Import Ray, in the main thread before others start: while one thread imports it, others would see half of it.

    Raises:
        ResourceError: Python runs without docstrings, which Ray reads.
    """
    set_timings()
    if sys.flags.optimize > 1:
        raise ResourceError(
            f"PYTHONOPTIMIZE: at {sys.flags.optimize} Python drops docstrings, and Ray cannot do without", "unset it"
        )
    import ray.train  # takes a second: only after everything that can be checked is

    if not is_own():  # what the threads use that export metrics and watch the cluster
        import ray.autoscaler.v2.sdk
        import ray.util.metrics  # noqa: F401


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the Ray cluster that RAY_ADDRESS names, else start one on this machine for as long as it is needed.

    Raises:
        ResourceError: what answers at RAY_ADDRESS is not a Ray cluster, or refuses; Ray does not start here.
    """
    if there := address():
        check_address(there)
    else:
        os.environ.pop("RAY_ADDRESS", None)  # set to nothing, Ray takes it for an address
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home folder
    load()
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        if is_own():
            options |= {
                "address": "local",  # else Ray joins whatever cluster it finds on this machine
                "num_cpus": device.cpu_count(),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": stack.enter_context(_temp_folder()),
            }
            stack.callback(ray.shutdown)
            if (
                shlex.quote(sys.executable) != sys.executable
            ):  # Ray gives it to a shell as it is: a space would split it
                options["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
        try:
            with _in_a_folder_without_a_users_modules(), _given_up():
                ray.init(**options)
        except Exception as error:  # Ray raises whatever it met at its start, often a bare Exception
            raise _refusal(error) from error
        yield


@contextmanager
def _given_up() -> Iterator[None]:
    """Let joining a cluster end in time: Ray tries on and on, in a call that hears no signal."""
    error = ResourceError(
        f"RAY_ADDRESS: what is at {address()} does not answer as a Ray cluster",
        "check the address (the head's port is 6379), or unset it to train on this machine",
    )
    timer = Timer(JOINED_WITHIN_S, interrupts.give_up, [error])
    timer.daemon = True
    if not is_own():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _refusal(error: Exception) -> ResourceError:
    reason = one_line(error)
    if is_own():
        return ResourceError(
            f"Ray does not start on this machine ({reason})",
            "run trainer doctor; with RAY_TMPDIR set to a folder, Ray's logs stay there",
        )
    fix = "check the address and RAY_AUTH_TOKEN, or unset it to train on this machine"
    if "ersion mismatch" in str(error):  # Ray says it only in words
        fix = "use an environment with the cluster's versions of Ray and Python, or unset it to train on this machine"
    if "uthentication" in str(error):
        fix = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token"
    return ResourceError(f"RAY_ADDRESS: Ray cannot join {address()} ({reason})", fix)


@contextmanager
def _temp_folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs, removed with the cluster: Ray itself would leave one behind for each run.

    Where a user's is too long for sockets, as Slurm's often are, it is below /tmp. One in RAY_TMPDIR is kept.
    """
    if (kept := os.environ.get("RAY_TMPDIR")) and _holds_sockets(kept):
        yield kept
        return
    usual = tempfile.gettempdir()
    within = usual if _holds_sockets(f"{usual}/{PREFIX}12345678") else "/tmp"  # noqa: S108 # mkdtemp makes one of our own
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=within)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)  # else PyTorch leaves a folder of its own beside it
    with interrupts.removed_at_last(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _holds_sockets(folder: str) -> bool:
    return len(os.fsencode(folder)) + SOCKET_BELOW_TEMP <= MAX_SOCKET_PATH


@contextmanager
def _in_a_folder_without_a_users_modules() -> Iterator[None]:
    """Start Ray in a folder that its workers may import from: they search it first, before what is installed.

    In a user's working folder a `config.py` or `trainer.py` would take the place of ours.
    """
    ours = Path(trainer.__file__).parents[1]
    before = Path.cwd()
    # a checkout is where workers find the package; what is installed they find by themselves
    os.chdir(sys.prefix if ours.name in ("site-packages", "dist-packages") else ours)
    try:
        yield
    finally:
        os.chdir(before)
