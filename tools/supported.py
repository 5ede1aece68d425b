"""Say in one sentence what this machine lacks for `make setup`, instead of pages from a resolver of dependencies.

The pinned packages have wheels for the systems below and for no others: see docs/platforms.md. It runs before there is
an environment, with whatever Python is there: the standard library only, and nothing newer than Python 3.6.
"""

import platform
import sys

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
OLDEST_GLIBC = (2, 28)
OLDEST_MACOS = (14,)
MACHINES = {"Linux": ("x86_64", "aarch64"), "Darwin": ("arm64",)}
SUBMIT = "runs can be submitted to a cluster from here: pip install '.[cluster]' (docs/platforms.md)"


def problem(system, machine, python, libc, macos):
    """Return what an operating system, processor and Python lack, or None; each as `platform` and `sys` have it."""
    if python < OLDEST_PYTHON:
        return f"Python {text(python)} is older than {text(OLDEST_PYTHON)}; {other_python()}."
    if python > NEWEST_PYTHON:
        return f"Python {text(python)} is newer than {text(NEWEST_PYTHON)}, the last that Ray has; {other_python()}."
    if system not in MACHINES:
        return f"{system} is not supported; on Windows use WSL2 (docs/platforms.md)."
    if system == "Darwin" and machine == "x86_64":
        return f"PyTorch has no build for Intel Macs; on Apple silicon give an arm64 Python, on Intel {SUBMIT}."
    if machine not in MACHINES[system]:
        return f"Ray and PyTorch have no build for {machine}; {SUBMIT}."
    if system == "Darwin" and numbers(macos) < OLDEST_MACOS:
        return f"macOS {macos} is older than {text(OLDEST_MACOS)}, the first that PyTorch has a build for; {SUBMIT}."
    name, version = libc
    if system == "Linux" and name != "glibc":
        return f"Ray and PyTorch have no build for a Linux without glibc, such as Alpine; {SUBMIT}."
    if system == "Linux" and numbers(version) < OLDEST_GLIBC:
        return f"glibc {version} is older than {text(OLDEST_GLIBC)}, the first that PyTorch has a build for; {SUBMIT}."
    return None


def other_python():
    """Return how to give another Python."""
    return "give another one, as in make PYTHON=python3.12 train"


def numbers(version):
    """Return the numbers of a version."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def text(version):
    """Return numbers as a version."""
    return ".".join(map(str, version))


if __name__ == "__main__":
    found = problem(
        platform.system(), platform.machine(), sys.version_info[:2], platform.libc_ver(), platform.mac_ver()[0]
    )
    if found:
        sys.stderr.write(f"Error: {found}\n")
        sys.exit(2)
