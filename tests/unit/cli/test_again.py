"""The commands that hints give reach the same run when they are pasted."""

import shlex
import sys

import pytest

from trainer.cli import again
from trainer.errors import CheckpointError, DivergedError, InterruptedRunError, TrainingError


class Run:
    """A run on a cluster, as far as a hint needs it."""

    context = "kind"
    namespace = "team a"


def test_every_word_of_a_hint_is_quoted_for_a_shell():
    line = again.command("train", name="r1", set=["model.hidden=[8, 8]", "seed=$HOME"], storage="my runs")
    words = ["train", "--name", "r1", "--set", "model.hidden=[8, 8]", "--set", "seed=$HOME", "--storage", "my runs"]
    assert shlex.split(line) == ["trainer", *words]
    assert "'model.hidden=[8, 8]'" in line  # else zsh takes it for a pattern of files


def test_a_hint_leaves_out_what_was_not_given():
    assert again.command("train", name=None, set=None, data=None) == "trainer train"


def test_a_hint_for_a_cluster_always_names_the_cluster_and_namespace():
    assert again.on_cluster(Run(), "stop", "r1") == "trainer stop r1 --context kind --namespace 'team a'"


def test_a_hint_in_a_pod_names_no_context_since_there_is_none(monkeypatch):
    monkeypatch.setattr(Run, "context", again.IN_A_POD)
    assert again.on_cluster(Run(), "stop", "r1") == "trainer stop r1 --namespace 'team a'"


@pytest.mark.parametrize(
    ("error", "resumes"),
    [
        (InterruptedRunError("stopped"), True),
        (TrainingError("a worker was lost", retry=True), True),
        (DivergedError("the loss became nan", "lower optimizer.lr"), False),
        (CheckpointError("none is intact"), False),
    ],
)
def test_a_hint_promises_to_continue_only_what_the_same_command_can(error, resumes):
    begin = "To continue it: " if resumes else "The same again, once that is corrected: "
    assert again.hint(error, "trainer x") == f"{begin}trainer x"


@pytest.mark.parametrize(
    ("called", "on_path", "program"),
    [
        ("trainer", None, "trainer"),
        (".venv/bin/trainer", None, ".venv/bin/trainer"),
        ("/opt/bin/trainer", "/opt/bin/trainer", "trainer"),
        ("/opt/bin/trainer", "/usr/bin/trainer", "/opt/bin/trainer"),
        ("/src/trainer/__main__.py", None, f"{shlex.quote(sys.executable)} -m trainer"),
        ("/src/pytest/__main__.py", None, "trainer"),
    ],
)
def test_a_hint_calls_the_trainer_as_it_was_called(monkeypatch, tmp_path, called, on_path, program):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(again.shutil, "which", lambda name: on_path)
    assert again.command("list") == f"{program} list"
