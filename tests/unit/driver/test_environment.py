import subprocess
from importlib.metadata import version

from trainer.driver import environment


def test_the_environment_names_versions_and_hardware():
    described = environment.describe()
    assert described["ray"] == version("ray")
    assert described["cpu_cores"] >= 1
    assert described["memory_bytes"] > 2**28


def test_a_package_that_is_not_installed_has_no_version():
    assert environment._version("no-such-package") is None


def test_an_image_says_what_it_was_built_from(monkeypatch):
    monkeypatch.setenv("TRAINER_GIT_COMMIT", "abc")
    assert environment.git_commit() == "abc"


def test_the_commit_of_a_changed_tree_says_so(monkeypatch):
    monkeypatch.delenv("TRAINER_GIT_COMMIT", raising=False)
    answers = {"rev-parse": "abc", "status": " M x"}
    monkeypatch.setattr(environment, "_git", lambda folder, verb, *_: answers[verb])
    assert environment.git_commit() == "abc+changes"
    answers["status"] = ""
    assert environment.git_commit() == "abc"


def test_a_tree_without_git_has_no_commit(monkeypatch):
    def fail(folder, *_):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.delenv("TRAINER_GIT_COMMIT", raising=False)
    monkeypatch.setattr(environment, "_git", fail)
    assert environment.git_commit() is None
