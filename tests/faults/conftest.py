"""Breaking runs in every way known, with real Ray."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="100 random kills in one run instead of 25")
