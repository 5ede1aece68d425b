"""What tests share: the real data set, a store that fails, an undisturbed run, where it is kept what a fault costs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import proxy
from support.training import OFTEN, Training

from trainer.driver import environment
from trainer.storage import bucket as buckets
from trainer.training import fetch


def pytest_configure():
    # a script that runs the tests in its background ignores Ctrl-C, and what they start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--results", type=Path, help="folder that gets what each fault costs, a JSON file for each")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data set, found as the trainer finds it."""
    return fetch.find_dataset(None, log=print)


@pytest.fixture
def between(s3, monkeypatch) -> Iterator[proxy.Proxy]:
    """A proxy before the S3 server `s3`, a fixture of the module's own; this process itself looks past it."""
    with proxy.before(s3["AWS_ENDPOINT_URL"]) as between:
        for name, value in s3.items():
            monkeypatch.setenv(name, value)
        buckets.client.cache_clear()
        yield between
        buckets.client.cache_clear()


@pytest.fixture
def note(request) -> Callable[..., None]:
    """Keeps a test's result: the fault, how the run took it, and what that cost."""

    def keep(
        fault: str,
        outcome: str,
        steps_lost: Sequence[int] = (),
        seconds: Sequence[float] = (),
        times: int | None = None,
        exit_code: int = 0,
        **more: Any,
    ) -> None:
        folder = request.config.getoption("--results")
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        name = request.node.name.removeprefix("test_").translate(str.maketrans("[]", "--")).strip("-")
        content = {
            "test": request.node.nodeid.rpartition("/")[2],
            "fault": fault,
            "outcome": outcome,
            "exit_code": exit_code,
            "times": times if times is not None else max(1, len(steps_lost)),
            "steps_lost": list(steps_lost),
            "seconds_to_next_step": list(seconds),
            **more,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": environment.describe(),
        }
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")

    return keep


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, data_folder) -> Callable[..., dict[str, str]]:
    """What the run becomes on so many workers, with further options, when nothing happens to it."""
    known: dict[tuple[str, ...], dict[str, str]] = {}

    def state(workers: int, *options: str) -> dict[str, str]:
        options = ("--workers", str(workers), *options)
        if options not in known:
            with Training(tmp_path_factory.mktemp("undisturbed"), *OFTEN, *options) as training:
                assert training.ends() == 0, training.output()
                known[options] = training.state()
        return known[options]

    return state
