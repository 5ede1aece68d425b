"""The watchdog in processes of its own, since it ends the one that it watches."""

import subprocess
import sys

SCRIPT = """
import time
from trainer.training import watchdog
watchdog.PATIENCE_S, watchdog.WOUND_EVERY_S = 0.5, 0.05
dog = watchdog.Watchdog()
{}
print("went on")
"""
STEPS = "for _ in range(20): dog.step(); time.sleep(0.05)\n"


def ran(then):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(then)], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


def test_a_process_that_goes_on_is_left_alone():
    assert ran(STEPS) == (0, "went on\n", "")


def test_one_that_stands_still_is_ended_and_leaves_where_it_stood():
    code, out, errors = ran(STEPS + "def stuck(): time.sleep(20)\nstuck()")
    assert (code, out) == (1, "")
    assert "in stuck" in errors


def test_one_that_is_stuck_in_native_code_is_ended_too():
    code, out, _ = ran(STEPS + "import ctypes; ctypes.PyDLL(None).sleep(20)")  # PyDLL: with the interpreter locked
    assert (code, out) == (1, "")


def test_in_a_pause_nothing_is_ended():
    assert ran(STEPS + "dog.pause(); time.sleep(1.5)") == (0, "went on\n", "")
