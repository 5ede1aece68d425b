import os
import signal
import subprocess
import sys

import psutil
import pytest

PROGRAM = """
import os, signal, subprocess, sys, time
from trainer.driver import interrupts
interrupts.ENDS_WITHIN_S = 0.3
signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=-3, stderr=-3)  # DEVNULL
with interrupts.bounded(), interrupts.at_last(lambda: print("kept", flush=True)), interrupts.at_last(lambda: 1 / 0):
"""
DEAF = """
    signal.signal(signal.SIGINT, lambda *_: None)  # as if the main thread were in a call that hears no signal
    print(child.pid, flush=True)
    while True: time.sleep(1)
"""
HEARS = """
    try: print(child.pid, flush=True); time.sleep(600)
    except KeyboardInterrupt: sys.exit(3)
"""
TAKES_LONGER = """
    try: print(child.pid, flush=True); time.sleep(600)
    except KeyboardInterrupt: time.sleep(3 * interrupts.ENDS_WITHIN_S)
    sys.exit(4)
"""

pytestmark = pytest.mark.server


@pytest.fixture
def ended():
    """Start a program, send it a signal when it is ready: its exit code, what it printed, and its child."""
    children = []

    def run(body, number):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            children.append(psutil.Process(int(process.stdout.readline())))
            os.kill(process.pid, number)
            try:
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()  # else one that does not end would be waited for
        return process.returncode, out, err, children[-1]

    yield run
    for child in children:
        if child.is_running():
            child.kill()


def test_a_command_that_hears_no_ctrl_c_is_ended_with_its_children(ended):
    code, out, err, child = ended(DEAF, signal.SIGINT)
    assert (code, out) == (130, "kept\n")  # an act that fails keeps no other from its turn
    assert "Stopped: what did not end by itself was killed." in err
    child.wait(30)


def test_a_command_that_ends_by_itself_is_let_end(ended):
    assert ended(HEARS, signal.SIGINT)[:2] == (3, "")


def test_a_command_that_kubernetes_stops_may_take_longer(ended):
    assert ended(TAKES_LONGER, signal.SIGTERM)[:2] == (4, "")
    assert ended(TAKES_LONGER, signal.SIGINT)[0] == 130


GIVES_UP = """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # it may come before it is waited for
    print(child.pid, flush=True)
    import threading
    from trainer.errors import ResourceError
    signal.sigwait({signal.SIGUSR1})
    threading.Thread(target=interrupts.give_up, args=[ResourceError("no room", "make some")]).start()
    while True: time.sleep(1)
"""


def test_a_thread_may_end_a_command_with_its_error(ended):
    code, _, err, _ = ended(GIVES_UP, signal.SIGUSR1)
    assert code == 7
    assert "Error: no room; make some." in err
