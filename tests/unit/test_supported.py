"""What `make setup` says on a machine that the pinned packages have no wheels for, and what it runs on one that has."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import supported

ROOT = Path(__file__).parents[2]
GLIBC = ("glibc", "2.36")


@pytest.mark.parametrize(
    "machine",
    [
        ("Linux", "x86_64", (3, 10), GLIBC, ""),
        ("Linux", "aarch64", (3, 14), ("glibc", "2.28"), ""),
        ("Darwin", "arm64", (3, 12), ("", ""), "14.0"),
        ("Darwin", "arm64", (3, 13), ("", ""), "26.1"),
    ],
    ids=str,
)
def test_a_supported_machine_lacks_nothing(machine):
    assert supported.problem(*machine) is None


@pytest.mark.parametrize(
    ("machine", "part"),
    [
        (("Linux", "x86_64", (3, 9), GLIBC, ""), "Python 3.9 is older than 3.10; give another one"),
        (("Linux", "x86_64", (3, 15), GLIBC, ""), "Python 3.15 is newer than 3.14"),
        (("Darwin", "x86_64", (3, 12), ("", ""), "14.0"), "no build for Intel Macs; on Apple silicon give an arm64"),
        (("Darwin", "arm64", (3, 12), ("", ""), "13.6"), "macOS 13.6 is older than 14"),
        (("Linux", "armv7l", (3, 12), GLIBC, ""), "no build for armv7l"),
        (("Linux", "x86_64", (3, 12), ("", ""), ""), "without glibc, such as Alpine"),
        (("Linux", "x86_64", (3, 12), ("glibc", "2.17"), ""), "glibc 2.17 is older than 2.28"),
        (("Windows", "AMD64", (3, 12), ("", ""), ""), "on Windows use WSL2"),
        (("FreeBSD", "amd64", (3, 12), ("", ""), ""), "FreeBSD is not supported; on Windows use WSL2"),
    ],
    ids=str,
)
def test_an_unsupported_machine_is_told_what_it_lacks_and_what_works(machine, part):
    said = supported.problem(*machine)
    assert part in said
    assert any(way in said for way in ("give another one", "pip install '.[cluster]'", "use WSL2"))
    assert said.count(". ") <= 1


def test_the_page_of_platforms_says_the_same():
    page = (ROOT / "docs" / "platforms.md").read_text()
    oldest, newest = supported.text(supported.OLDEST_PYTHON), supported.text(supported.NEWEST_PYTHON)
    assert f"Python {oldest} to {newest}" in page
    assert f"Python {oldest} to {newest}" in (ROOT / "README.md").read_text()
    assert f"glibc {supported.text(supported.OLDEST_GLIBC)} or newer" in page
    assert f"macOS {supported.text(supported.OLDEST_MACOS)} or newer" in page
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def checkout(tmp_path):
    """A folder with what `make setup` reads, and a uv that notes what it is asked, both with spaces in their paths."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    folder = tmp_path / "my checkout"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "tools/supported.py"):
        shutil.copy(ROOT / name, folder / name)
    uv = tmp_path / "my tools" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/bash\nprintf "<%s>" "$@" >> asked\n[ "$1" != venv ] || mkdir -p .venv\n')
    uv.chmod(0o755)
    return folder


def setup(checkout, python, **words):
    command = ["make", "setup", f"PYTHON={python}", f"UV={checkout.parent / 'my tools' / 'uv'}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_setup_works_with_spaces_in_every_path(checkout):
    python = checkout.parent / "my python"
    python.symlink_to(sys.executable)
    done = setup(checkout, python)
    assert (done.returncode, done.stderr) == (0, "")
    asked = (checkout / "asked").read_text()
    assert f"<--python><{python}><.venv>" in asked
    assert "<--require-hashes><-r><requirements.txt>" in asked
    assert (checkout / ".venv" / ".ready").exists()


def test_setup_on_an_unsupported_machine_says_one_sentence_alone(checkout):
    about = (checkout / "tools" / "supported.py").read_text()
    (checkout / "tools" / "supported.py").write_text(re.sub(r"platform\.system\(\)", '"Plan9"', about))
    done = setup(checkout, sys.executable)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert said.startswith("Error: Plan9 is not supported; ")
    assert not (checkout / "asked").exists()
