"""Two processes on one run: one trains it, and one that was dead for a while does no harm."""

from __future__ import annotations

import json
import time

import psutil
import pytest
from support.training import OFTEN, Training

from trainer.errors import ExitCode
from trainer.storage import lease


def test_a_second_job_on_a_run_is_refused_within_5_seconds(tmp_path, undisturbed, note):
    with Training(tmp_path, *OFTEN, pace_s=0.3) as first:
        first.trains(5)
        began = time.monotonic()
        with Training(tmp_path, *OFTEN) as second:
            assert second.ends() == ExitCode.CONFLICT
            seconds = time.monotonic() - began
            assert f"process {first.process.pid} on " in second.output()
        assert seconds < 5
        assert first.ends() == 0, first.output()
    assert first.state() == undisturbed(1)
    assert len(first.events("run_started")) == 1
    note(
        "a second job on a run that is going on",
        f"the second is refused after {seconds:.1f} s, and names the first, which continues",
        [0],
        exit_code=int(ExitCode.CONFLICT),
    )


@pytest.mark.parametrize("frozen", ["driver", "machine"])
def test_an_owner_that_froze_is_replaced_and_does_no_harm_when_it_wakes_up(frozen, tmp_path, undisturbed, note):
    with Training(tmp_path, *OFTEN, pace_s=0.5) as zombie:
        zombie.trains(5)
        zombie.until(zombie.committed)
        driver = psutil.Process(zombie.process.pid)
        everyone = [driver, *(driver.children(recursive=True) if frozen == "machine" else [])]
        for each in everyone:
            each.suspend()
        zombie.until(lambda: time.time() - last_sign_of_life(tmp_path) > lease.EXPIRES_AFTER_S)
        as_of_elsewhere(tmp_path)
        with Training(tmp_path, *OFTEN, pace_s=0.5) as heir:
            heir.until(lambda: len(heir.events("training_started")) == 2)
            for each in everyone:
                each.resume()
            seen = set()
            while zombie.process.poll() is None:
                seen |= set(heir.committed())
                time.sleep(0.05)
            assert zombie.ends() == ExitCode.CONFLICT, zombie.output()
            assert f"process {heir.process.pid} on " in zombie.output()
            assert "has taken over" in zombie.output()
            assert heir.result() == {}  # the record is the heir's
            assert heir.ends() == 0, heir.output()
        assert heir.state() == undisturbed(1)
    started = heir.events("training_started")
    assert [event["attempt"] for event in started] == [1, 2]
    assert [each for each in seen if each.fence == 1 and each.step > started[1]["step"]] == []
    assert heir.result()["status"] == "finished"
    assert [event["status"] for event in heir.events("run_ended")] == ["finished"]
    note(
        f"the {frozen} of a run stands still until its claim on the run expires; another takes over; it wakes up",
        "the second continues to bitwise the undisturbed weights; the first ends and has committed nothing more",
        exit_code=int(ExitCode.CONFLICT),
    )


def last_sign_of_life(folder):
    return float(json.loads((folder / "runs" / "r" / "lease" / "000001.alive").read_text())["time"])


def as_of_elsewhere(folder):
    """The claim as another machine would have made it: one on this machine that is there is known to live."""
    claim = folder / "runs" / "r" / "lease" / "000001.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "host": "elsewhere"}))
