"""The watchdog in separate processes, since it ends the one that it watches."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.server

SCRIPT = """
import time
from trainer.training import watchdog
watchdog.PATIENCE_S, watchdog.REARM_EVERY_S = 0.5, 0.05
dog = watchdog.Watchdog()
{}
print("continued")
"""
STEPS = "for _ in range(20): dog.step(); time.sleep(0.05)\n"


def run(then):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(then)], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


def test_a_process_that_makes_steps_is_left_alone():
    assert run(STEPS) == (0, "continued\n", "")


def test_a_process_without_steps_is_ended_and_leaves_its_stack():
    code, out, errors = run(STEPS + "def stuck(): time.sleep(20)\nstuck()")
    assert (code, out) == (1, "")
    assert "in stuck" in errors


def test_a_process_stuck_in_native_code_is_ended():
    code, out, _ = run(STEPS + "import ctypes; ctypes.PyDLL(None).sleep(20)")  # PyDLL keeps the interpreter lock
    assert (code, out) == (1, "")


def test_a_paused_watchdog_ends_nothing():
    assert run(STEPS + "dog.pause(); time.sleep(1.5)") == (0, "continued\n", "")
