"""What `make deploy` checks before it does anything. No cluster here: tests/cluster runs it for real."""

import shutil
import subprocess

import pytest
from support.charts import ROOT

SHELL = (
    "python3",
    "bash",
    "dirname",
    "basename",
    "date",
    "sed",
    "grep",
    "sort",
    "awk",
    "env",
    "head",
    "od",
    "tr",
    "cat",
)


@pytest.fixture
def path(tmp_path):
    """A folder with what the script's own lines need, and no tool of the cluster."""
    for name in SHELL:
        (tmp_path / name).symlink_to(shutil.which(name))
    return tmp_path


def pretend(path, name, answers="exit 0"):
    """A stand-in for a tool that is there."""
    (path / name).write_text(f"#!/bin/bash\n{answers}\n")
    (path / name).chmod(0o755)


def deploy(path, *steps, **environment):
    environment = {"PATH": str(path), "IMAGE": "image:1", **environment}
    command = ["bash", str(ROOT / "k8s" / "deploy.sh"), *steps]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, input="")


@pytest.mark.parametrize("missing", ["kubectl", "helm", "docker", "kind"])
def test_a_tool_that_is_missing_is_named_with_where_to_get_it(path, missing):
    for tool in ("kubectl", "helm", "docker", "kind"):
        if tool != missing:
            pretend(path, tool)
    done = deploy(path, "check-tools")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {missing} is not installed; get it from https://")


def test_a_docker_that_does_not_answer_is_told_from_one_that_is_missing(path):
    for tool in ("kubectl", "helm", "kind"):
        pretend(path, tool)
    pretend(path, "docker", "exit 1")
    done = deploy(path, "check-tools")
    assert (done.returncode, "Docker is installed but not running" in done.stderr) == (2, True)


def test_an_environment_that_is_none_is_refused_with_those_there_are(path):
    for tool in ("kubectl", "helm"):
        pretend(path, tool)
    done = deploy(path, "check-tools", ENV="moon")
    assert done.returncode == 2
    assert "k8s/moon/training.yaml does not exist; ENV is one of aks eks gke kind" in done.stderr


@pytest.mark.parametrize("environment", ["gke", "eks", "aks"])
def test_values_that_still_hold_placeholders_are_refused_by_name(path, environment):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$0 $*" >> "$CALLS"')
    done = deploy(path, "install-charts", ENV=environment, CONTEXT="cloud", CALLS=str(path / "calls"))
    assert done.returncode == 2
    assert f"k8s/{environment}/training.yaml still has placeholders: <" in done.stderr
    assert not (path / "calls").exists()


def test_a_step_that_is_none_is_refused(path):
    for tool in ("kubectl", "helm", "docker", "kind"):
        pretend(path, tool)
    done = deploy(path, "lunch")
    assert (done.returncode, "there is no step lunch" in done.stderr) == (2, True)


def test_every_command_goes_to_the_context_that_was_asked_for_and_no_other(path):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$*" >> "$CALLS"')
    calls = path / "calls"
    deploy(path, "install-platform", "install-charts", ENV="kind", CONTEXT="other", CALLS=str(calls))
    assert calls.read_text().count("\n") >= 6
    assert [line for line in calls.read_text().splitlines() if "context other" not in line] == []
