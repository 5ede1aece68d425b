import os
import signal

import pytest

from trainer.driver import launch


@pytest.mark.parametrize("interrupts", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_sigterm_stops_a_run_started_in_the_background_too(interrupts):
    before = signal.signal(signal.SIGINT, interrupts)  # ignored is what a shell's & leaves to its children
    try:
        with pytest.raises(KeyboardInterrupt), launch._terminate_as_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is interrupts
    finally:
        signal.signal(signal.SIGINT, before)
