"""Fixtures of the chart tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.charts import ENVIRONMENTS, Manifest, generate, render, values_of


@pytest.fixture(scope="session", params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> str:
    """Each folder of k8s/ with values for the chart `training`."""
    return request.param


@pytest.fixture(scope="session", params=[*ENVIRONMENTS, "defaults", "kitchen-sink"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """The chart `training`, rendered for each environment, bare, and with every key set."""
    return render(values_of(request.param))


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """What Helm says to values that it must refuse."""

    def attempt(values: dict[str, Any], chart: str = "training") -> str:
        with pytest.raises(generate.RenderError) as error:
            render(values, chart)
        return str(error.value)

    return attempt
