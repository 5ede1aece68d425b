"""A whole run with one worker: what it prints, what it leaves behind, and what can be done with that."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from support.runs import SMALL, result_of, run_trainer


def test_a_run_ends_with_accuracy_loss_classes_time_and_the_reports_path(finished):
    _, done = finished
    for part in ("Test accuracy", "test loss", "Ankle boot", "start-up", "evaluation", "shutdown", "report.html"):
        assert part in done.stdout
    assert "epoch 2/2" in done.stdout
    assert done.stderr == ""


def test_the_result_has_the_final_weights_scores_and_times_that_add_up(finished):
    folder, _ = finished
    result = result_of(folder, "one")
    assert (result["status"], result["exit_code"], result["epochs"], result["steps"]) == ("finished", 0, 2, 60)
    assert 0.7 < result["test_accuracy"] < 1
    parts = dict(result["seconds"])
    wall = parts.pop("wall")
    assert set(parts) == {"start_up", "data", "training", "evaluation", "shutdown"}
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(wall, rel=0.02)


def test_the_record_has_config_environment_every_point_events_and_weights(finished):
    folder, _ = finished
    record = folder / "runs" / "one"
    points = [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]
    events = [json.loads(line)["event"] for line in (record / "events.jsonl").read_text().splitlines()]
    assert sum(point["samples"] for point in points) == 120_000
    assert [point["epoch"] for point in points if "test_accuracy" in point] == [1, 2]
    events = [event for event in events if event != "pending"]  # on a slow machine
    assert events == ["run_started", "training_started", "training_finished", "run_ended", "report_written"]
    assert "dropout: 0.1" in (record / "config.yaml").read_text()
    environment = json.loads((record / "environment.json").read_text())
    assert environment["ray"] == "2.60.0"
    assert environment["cpu_cores"] >= 1
    assert (record / "model.safetensors").stat().st_size > 200_000
    assert len(json.loads((record / "evaluation.json").read_text())["mistakes"]) == 25
    assert not [path for path in record.iterdir() if path.name.startswith(".")], "no scratch is left behind"


def test_the_report_is_there_and_is_made_again_from_the_record_alone(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "runs" / "one", tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "report.html").unlink()
    shutil.rmtree(tmp_path / "runs" / "one" / "plots")
    made = run_trainer(tmp_path, "report", "one", FASHION_MNIST_DIR="/nowhere")
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "runs" / "one" / "report.html").read_text()
    assert f"{100 * result_of(folder, 'one')['test_accuracy']:.2f}" in page


def test_evaluating_the_run_in_ray_tasks_gives_the_runs_own_numbers(finished):
    folder, _ = finished
    done = run_trainer(folder, "evaluate", "one", "--tasks", "3", "--json")
    assert done.returncode == 0, done.stderr
    scores, result = json.loads(done.stdout), result_of(folder, "one")
    assert scores["test_accuracy"] == pytest.approx(result["test_accuracy"], abs=2e-4)
    assert scores["test_loss"] == pytest.approx(result["test_loss"], rel=1e-4)
    assert scores["samples"] == 10_000


@pytest.mark.slow
def test_evaluating_the_weights_file_needs_the_config_and_gives_the_same(finished):
    folder, _ = finished
    weights = "runs/one/model.safetensors"
    done = run_trainer(folder, "evaluate", weights, "--config", "runs/one/config.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_accuracy"] == pytest.approx(
        result_of(folder, "one")["test_accuracy"], abs=2e-4
    )


def test_a_finished_run_started_again_shows_its_result_at_once(finished):
    folder, _ = finished
    before = (folder / "runs" / "one" / "events.jsonl").read_text()
    began = time.monotonic()
    again = run_trainer(
        folder,
        "train",
        "--name",
        "one",
        *SMALL,
        "--set",
        "epochs=2",
        "--set",
        "model.dropout=0.1",
        "--set",
        "data.flip=random",
    )
    assert again.returncode == 0
    assert "finished already" in again.stdout
    assert "Test accuracy" in again.stdout
    assert (folder / "runs" / "one" / "events.jsonl").read_text() == before
    assert time.monotonic() - began < 60  # it trained nothing


def test_its_name_with_another_config_is_refused_with_the_difference(finished):
    folder, _ = finished
    other = run_trainer(folder, "train", "--name", "one", "--recipe", "seed")
    assert other.returncode == 5
    assert "epochs: 2 → 10" in other.stderr


@pytest.mark.slow
def test_an_environment_in_a_path_with_spaces_trains_as_well(tmp_path, data_folder):
    (tmp_path / "my project").mkdir()
    (tmp_path / "my project" / ".venv").symlink_to(sys.prefix)
    python = tmp_path / "my project" / ".venv" / "bin" / "python"
    done = run_trainer(tmp_path, "train", "--name", "spaces", *SMALL, "--set", "epochs=1", python=str(python))
    assert done.returncode == 0, done.stdout + done.stderr
    assert result_of(tmp_path, "spaces")["status"] == "finished"


def test_a_dry_run_checks_and_starts_nothing(finished, tmp_path):
    done = run_trainer(tmp_path, "train", "--name", "dry", "--dry-run", *SMALL, "--set", "epochs=4")
    assert done.returncode == 0, done.stderr
    assert "can start: 120 steps" in done.stdout
    assert not (tmp_path / "runs" / "dry").exists()


def test_damaged_data_stops_a_run_before_it_starts(finished, tmp_path, data_folder):
    shutil.copytree(data_folder, tmp_path / "data", ignore=shutil.ignore_patterns(".*", "*lock*"))
    images = tmp_path / "data" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    done = run_trainer(tmp_path, "train", "--name", "x", "--data", "data")
    assert done.returncode == 3
    assert "train-images-idx3-ubyte" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "x").exists()


@pytest.mark.slow
def test_a_relative_data_folder_is_found_by_the_workers_too(tmp_path, data_folder):
    (tmp_path / "data").symlink_to(data_folder)
    small = [*SMALL, "--set", "epochs=1", "--set", "data.validation_samples=58000"]
    done = run_trainer(tmp_path, "train", "--name", "relative", "--data", "data", *small)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_with_a_closed_pipe_still_ends_with_its_result(tmp_path, data_folder):
    small = [*SMALL, "--set", "epochs=1", "--set", "data.validation_samples=58000"]
    command = [sys.executable, "-m", "trainer", "train", "--name", "unread", "--log-format", "json", *small]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert any(b"training_started" in line for line in process.stdout)
    process.stdout.close()
    process.wait(timeout=300)
    assert result_of(tmp_path, "unread")["status"] == "finished"
    assert (tmp_path / "runs" / "unread" / "report.html").exists()
