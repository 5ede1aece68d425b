"""Worker and driver killed again and again at moments that nobody chose: the run still ends as if undisturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack

import pytest
from support.training import OFTEN, Training

SHARE_OF_DRIVERS = 0.2
EPOCHS = {25: 60, 100: 150}  # more than enough for so many kills, at ten steps an epoch


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_happened(workers, request, tmp_path, undisturbed, note):
    kills = 100 if request.config.getoption("--soak") else 25
    luck = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    options = ["--workers", str(workers), "--set", f"epochs={EPOCHS[kills]}"]
    of_drivers, killed_at = 0, 0.0
    with ExitStack() as started:
        training = started.enter_context(Training(tmp_path, *OFTEN, *options, pace_s=0.1))
        for _ in range(kills):
            wait_for_a_moment(training, killed_at, luck.uniform(0.0, 2.0))
            killed_at = time.time()
            if luck.random() < SHARE_OF_DRIVERS:
                training.kill_all()
                training = started.enter_context(Training(tmp_path, *OFTEN, *options, pace_s=0.1))
                of_drivers += 1
            else:
                os.kill(training.pid(rank=luck.randrange(workers)), signal.SIGKILL)
        assert training.ends(600) == 0, training.output()
    assert training.state() == undisturbed(workers, *options[2:])
    assert training.result()["status"] == "finished"
    assert len(training.events("run_started")) == of_drivers + 1
    assert len(training.groups()) == kills + 1
    assert len(training.events("worker_failed")) >= kills - of_drivers
    note(
        f"{kills} SIGKILLs at random moments of one run on {workers} worker(s), {of_drivers} of them of the driver and "
        "its whole Ray cluster, the others of a worker",
        "continues by itself, or by the same command; bitwise the undisturbed weights",
        training.steps_lost(),
        training.seconds_lost(),
        times=kills,
    )


def wait_for_a_moment(training, killed_at, seconds):
    """Until workers that were started after the last kill have trained for so long."""

    def have():
        lines = training.lines()
        return bool(lines) and training.newest()[0]["time"] > killed_at and time.time() - training.newest()[0]["time"]

    training.until(lambda: (have() or -1.0) >= seconds)
