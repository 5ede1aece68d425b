import re

import pytest

from trainer.cli.options import as_overrides, run_name


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ((None, None, None, None), []),
        ((["epochs=3"], "1-4", True, 2), ["epochs=3", "workers=1-4", "gpu=true", "cpus_per_worker=2"]),
        ((None, None, False, None), ["gpu=false"]),
    ],
)
def test_options_become_settings(given, overrides):
    assert as_overrides(*given) == overrides


def test_a_run_without_a_name_is_called_after_recipe_and_time():
    assert run_name("mine", "seed") == "mine"
    assert re.fullmatch(r"seed-\d{8}-\d{6}", run_name(None, "seed"))
    assert run_name(None, None).startswith("fast-")
