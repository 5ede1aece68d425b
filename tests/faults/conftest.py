"""Breaking runs in every way known, with real Ray."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption(
        "--soak", action="store_true", help="more of everything: 100 random kills, 200 runs in a row, 20 at once"
    )
