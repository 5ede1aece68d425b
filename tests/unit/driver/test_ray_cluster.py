import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from trainer.driver import ray_cluster
from trainer.errors import ExitCode, ResourceError


@pytest.mark.parametrize(
    ("address", "own"),
    [(None, True), ("", True), (" ", True), ("local", True), ("10.0.0.1:6379", False), ("auto", False)],
)
def test_ray_address_says_whose_cluster_it_is(monkeypatch, address, own):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_cluster.is_own() is own


@pytest.mark.parametrize(("address", "watcher"), [(None, "0"), ("10.0.0.1:6379", None)])
def test_only_a_shared_cluster_is_watched_for_preemption(monkeypatch, address, watcher):
    environment = {"RAY_ADDRESS": address} if address else {}
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.set_timings()
    assert environment.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == watcher
    assert environment.items() >= ray_cluster.TIMINGS.items()


@pytest.mark.parametrize(("address", "cluster"), [(None, "0"), ("10.0.0.1:6379", "1")])
def test_only_a_ray_of_ones_own_listens_on_this_machine_alone(monkeypatch, address, cluster):
    environment = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"} | ({"RAY_ADDRESS": address} if address else {})
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.set_timings()
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == cluster


def test_what_is_set_already_wins(monkeypatch):
    environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "9"}
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.set_timings()
    assert environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "9"


def test_what_would_change_the_workers_is_overridden(monkeypatch):
    environment = {
        "RAY_TRAIN_V2_ENABLED": "0",
        "RAY_RUNTIME_ENV_HOOK": "mine.hook",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1",
    }
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.set_timings()
    assert environment.items() >= ray_cluster.OVERRIDDEN.items()
    assert "RAY_RUNTIME_ENV_HOOK" not in environment


@pytest.mark.parametrize("name", ["x", "x" * 60, "ü" * 30])  # bytes count, not characters
def test_rays_temporary_folder_is_short_enough_for_sockets_and_removed(monkeypatch, name):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        usual = Path(short, name)
        usual.mkdir()
        monkeypatch.setattr(ray_cluster.tempfile, "gettempdir", lambda: str(usual))
        with ray_cluster._temp_folder() as folder:
            assert Path(folder).is_dir()
            assert (Path(folder).parent == usual) is (name == "x")
            assert ray_cluster._holds_sockets(folder)
        assert not Path(folder).exists()


def test_rays_temporary_folder_that_a_user_names_is_kept(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as given:
        monkeypatch.setenv("RAY_TMPDIR", given)
        with ray_cluster._temp_folder() as folder:
            assert folder == given
        assert Path(given).is_dir()


@pytest.fixture
def ray_that_raises(monkeypatch):
    import ray

    def arrange(error):
        def init(**_):
            raise error

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray_cluster, "check_address", lambda _: None)
        monkeypatch.setattr(ray_cluster, "load", lambda: None)

    return arrange


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ConnectionError("no GCS"), "check the address"),
        (
            RuntimeError("Version mismatch: the cluster has Ray 2.9 and Python 3.12"),
            "the cluster's versions",
        ),
        (RuntimeError("Authentication failed: token required"), "RAY_AUTH_TOKEN"),
        (ValueError("a value of the environment"), "unset it"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), "unset it"),
        (TimeoutError("in 60 s"), "unset it"),
        (Exception("The current node timed out during startup."), "unset it"),
    ],
)
def test_whatever_ray_refuses_with_is_a_sentence_about_its_address(monkeypatch, ray_that_raises, error, fix):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray_that_raises(error)
    with (
        pytest.raises(ResourceError, match=r"RAY_ADDRESS: Ray cannot join 10\.0\.0\.1:6379") as caught,
        ray_cluster.connected(),
    ):
        pass
    assert fix in caught.value.fix
    assert str(error)[:30] in caught.value.problem


def test_a_ray_that_does_not_start_here_says_so(monkeypatch, ray_that_raises):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray_that_raises(ValueError("AF_UNIX path length cannot exceed 107 bytes"))
    with pytest.raises(ResourceError, match="Ray does not start on this machine"), ray_cluster.connected():
        pass


def test_ray_starts_where_no_file_of_a_user_can_stand_for_ours(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with ray_cluster._in_a_folder_without_a_users_modules():
        assert Path.cwd() != tmp_path
        assert not Path("config.py").exists()
    assert Path.cwd() == tmp_path


@pytest.mark.server
def test_what_threads_use_of_ray_is_imported_before_them():
    code = (
        "import os, sys; os.environ['RAY_ADDRESS'] = '10.0.0.1:6379'; from trainer.driver import ray_cluster; "
        "ray_cluster.load(); print({'ray.util.metrics', 'ray.autoscaler.v2.sdk', 'ray.train'} <= set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "True"


def test_a_python_without_docstrings_is_refused():
    code = (
        "from trainer.driver import ray_cluster; from trainer.errors import ExitCode, ResourceError\n"
        "try: ray_cluster.load()\nexcept ResourceError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "PYTHONOPTIMIZE: at 2 Python drops docstrings, and Ray cannot do without; unset it.\n"


def test_a_cluster_that_never_answers_is_given_up(monkeypatch):
    import ray

    gave_up = threading.Event()
    errors = []

    def give_up(error):
        errors.append(error)
        gave_up.set()

    monkeypatch.setattr(ray, "init", lambda **_: gave_up.wait(30))
    monkeypatch.setattr(ray_cluster, "check_address", lambda _: None)
    monkeypatch.setattr(ray_cluster, "load", lambda: None)
    monkeypatch.setattr(ray_cluster, "JOINED_WITHIN_S", 0.01)
    monkeypatch.setattr(ray_cluster.interrupts, "give_up", give_up)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with ray_cluster.connected():
        pass
    assert (errors[0].exit_code, "10.0.0.1:6379 does not answer" in str(errors[0])) == (ExitCode.RESOURCES, True)
