import sys

import pytest
import torch

from trainer import resolve
from trainer.errors import ConfigError
from trainer.training.data import Batch
from trainer.training.job import STEP_HOOK, Job, import_hook

SETTINGS = {
    "config": resolve.load("fast").model_dump(),
    "data_folder": None,
    "run": "runs/r",
    "fence": 3,
    "attempt": 2,
    "preemptible": False,
}
BATCH = Batch(1, 0, torch.arange(2), torch.zeros(2, 784), torch.zeros(2), 1.0)


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    """The module `hooks` with a function `double`."""
    (tmp_path / "hooks.py").write_text(
        "from dataclasses import replace\ndef double(batch): return replace(batch, weight=2 * batch.weight)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("hooks", None)


def test_a_job_holds_the_settings_and_a_validated_config(monkeypatch):
    monkeypatch.delenv(STEP_HOOK, raising=False)
    job = Job.from_settings(SETTINGS)
    assert job.config == resolve.load("fast")
    assert (job.run, job.fence, job.attempt, job.preemptible) == ("runs/r", 3, 2, False)
    assert job.on_step(BATCH) is BATCH


def test_the_environment_names_the_step_hook(hooks, monkeypatch):
    monkeypatch.setenv(STEP_HOOK, "hooks:double")
    assert Job.from_settings(SETTINGS).on_step(BATCH).weight == 2.0


@pytest.mark.parametrize("name", ["missing:double", "hooks:missing", "hooks", ":double"])
def test_a_step_hook_that_cannot_be_imported_is_refused(hooks, name):
    with pytest.raises(ConfigError, match=f"TRAINER_STEP_HOOK: {name} cannot be imported") as caught:
        import_hook(name)
    assert "set it to module:function" in caught.value.fix
