"""The Ray cluster that a run uses: the one that RAY_ADDRESS names, or one of this machine's own."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def is_own() -> bool:
    """Whether Ray is started for this command alone, on this machine."""
    return "RAY_ADDRESS" not in os.environ


def set_timings() -> None:
    """Put TIMINGS into the environment, before Ray is imported; what is set there already wins."""
    for name, seconds in TIMINGS.items():
        os.environ.setdefault(name, seconds)
    if is_own():  # a laptop is not preempted, and the watcher is one more process
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the Ray cluster that RAY_ADDRESS names, else start one on this machine for as long as it is needed.

    Raises:
        ResourceError: what answers at RAY_ADDRESS is not a Ray cluster, or refuses.
    """
    if is_own():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home folder
    # Ray's page about each process that died would interrupt our lines, which say it in one
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    import ray  # takes a second: only after everything that can be checked is

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if is_own():
        options |= {
            "address": "local",  # else Ray joins whatever cluster it finds on this machine
            "num_cpus": device.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        if shlex.quote(sys.executable) != sys.executable:  # Ray passes it to a shell as it is: a space would split it
            options["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise ResourceError(
            f"RAY_ADDRESS: Ray cannot join {os.environ.get('RAY_ADDRESS', 'its own cluster')} ({one_line(error)})",
            "check the address and RAY_AUTH_TOKEN, or unset it to train on this machine",
        ) from error
    try:
        yield
    finally:
        if is_own():
            ray.shutdown()
