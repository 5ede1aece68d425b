"""A disk that fills up while a run trains."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.training import OFTEN, Training

from trainer.errors import ExitCode


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own of 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root, and not in every container, may mount a small disk ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_stopped_by_a_full_disk_can_be_resumed(small_disk: Path, undisturbed, note):
    with Training(small_disk, *OFTEN, pace_s=0.2) as training:
        training.trains(5)
        training.until(training.committed)
        ballast = small_disk / "ballast"
        fill(ballast)
        assert training.ends() == ExitCode.STORAGE, training.output()
        assert "free space on that disk" in training.output()
        assert "Traceback" not in training.output()
        assert len(training.groups()) == 1  # trying again would not help, and was not tried
        kept = training.committed()
        assert kept
    ballast.unlink()
    with Training(small_disk, *OFTEN) as again:
        assert again.ends() == 0, again.output()
    assert again.state() == undisturbed(1)
    assert again.events("training_started")[-1]["step"] >= kept[0].step
    note(
        "the disk with the run is full",
        "ends and says so; with room again the same command resumes it, to bitwise the undisturbed weights",
        again.steps_lost(),
        exit_code=int(ExitCode.STORAGE),
    )


def fill(ballast):
    """Take all the room there is."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
