import re
import shlex
from pathlib import Path

import pytest
import yaml

from trainer import resolve
from trainer.cluster import rayjob
from trainer.driver import environment
from trainer.errors import ConfigError, ConflictError

RAYJOB = (Path(__file__).parents[3] / "k8s" / "rayjob.yaml").read_text()  # what the chart makes on kind
STANDING = RAYJOB.partition("  rayClusterSpec:")[0] + "  clusterSelector: {ray.io/cluster: training}\n"
TEMPLATES = {"rayjob.yaml": RAYJOB, "rayjob-standing.yaml": STANDING}
ON_KIND = "workers: 2\ncpus_per_worker: 1\n"


def config(*overrides, recipe="fast"):
    return resolve.load(recipe, None, overrides, ON_KIND)


def job(settings, name="r1", recipe="fast", cluster="own"):
    return rayjob.build(TEMPLATES, cluster, name, recipe, settings)


def settings_in(entrypoint):
    """What the command of a RayJob trains with, as the image would read it."""
    words = shlex.split(entrypoint)
    given = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    recipe = words[words.index("--recipe") + 1] if "--recipe" in words else None
    assert "--config" not in words  # or a later train.yaml of the cluster would change what the run is
    return resolve.load(recipe, None, given)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["epochs=20", "optimizer.lr=1e-3"],
        ["model.hidden=[128, 64]", "workers=1-2", "gpu=true"],
        ["optimizer.grad_clip_norm=1.5", "optimizer.schedule=constant", "cpus_per_worker=null"],
    ],
)
def test_the_command_gives_exactly_the_submitted_config(overrides):
    settings = resolve.load("fast", None, overrides, ON_KIND)
    command = rayjob.manifest(TEMPLATES, "own", "r1", "fast", settings)["spec"]["entrypoint"]
    assert settings_in(command).sha256 == settings.sha256
    assert shlex.split(command)[:6] == ["python", "-m", "trainer", "train", "--name", "r1"]
    assert "--log-format json" in command


def test_the_driver_is_told_when_its_run_was_submitted():
    made = job(config())
    rayjob.note_submission(made, 1790000000.25)
    words = shlex.split(made["spec"]["entrypoint"])
    assert words[:5] == ["env", f"{environment.SUBMITTED_AT}=1790000000.250", "python", "-m", "trainer"]
    assert rayjob.submit_options({**made, "metadata": {**made["metadata"]}})[:2] == ["--name", "r1"]


def test_the_command_names_the_recipe_and_what_differs_from_it():
    command = job(config("epochs=20", recipe="accurate"), recipe="accurate")["spec"]["entrypoint"]
    assert command.endswith("--recipe accurate --set epochs=20 --set workers=2 --set cpus_per_worker=1")


def test_no_word_of_the_command_contains_a_space():
    settings = config("model.blocks=[[8, 16], [32]]", "model.hidden=[128, 64]", recipe="accurate")
    command = rayjob.manifest(TEMPLATES, "own", "r1", "accurate", settings)["spec"]["entrypoint"]
    assert [word for word in shlex.split(command) if " " in word] == []


def test_the_rayjob_has_the_runs_name_and_config():
    settings = config("epochs=20")
    made = job(settings)
    assert made["metadata"]["name"] == "r1"
    assert rayjob.config_of(made) == settings
    assert rayjob.storage_of(made) == "s3://runs"


@pytest.mark.parametrize("name", ["1st", "a" * 41, "Upper", "a_b", "-a", "a-"])
def test_a_name_that_no_rayjob_can_have_is_refused(name):
    with pytest.raises(ConfigError, match="name"):
        rayjob.check_name(name)


def test_the_longest_name_leaves_kuberay_room():
    assert len(rayjob.check_name("a" * 40)) < 47


def test_another_config_is_refused_with_the_differences():
    made = job(config("epochs=20"))
    rayjob.check_same(made, config("epochs=20"), "training")
    with pytest.raises(ConflictError, match=r"r1 is a run in training with another config .epochs: 20 → 3"):
        rayjob.check_same(made, config("epochs=3"), "training")


def test_a_rayjob_created_by_kubectl_is_not_joined():
    with pytest.raises(
        ConflictError, match="fashion-mnist is a RayJob in training that `trainer submit` did not create"
    ):
        rayjob.check_same(yaml.safe_load(RAYJOB), config(), "training")


def test_a_run_on_the_standing_cluster_has_no_own_cluster():
    made = job(config(), cluster="standing")
    assert made["spec"]["clusterSelector"] == {"ray.io/cluster": "training"}
    assert "rayClusterSpec" not in made["spec"]
    with pytest.raises(ConfigError, match=r"cluster\.enabled=true"):
        rayjob.manifest({"rayjob.yaml": RAYJOB}, "standing", "r1", "fast", config())


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"epochs": "many"}', '{"nope": 1}', "[" * 100_000])
def test_an_odd_config_annotation_is_no_config(text):
    assert rayjob.config_of({"metadata": {"name": "r1", "annotations": {"trainer/config": text}}}) is None


def test_an_object_without_annotations_has_none():
    assert rayjob.annotations_of({"metadata": {"name": "r1", "annotations": None}}) == {}
    assert rayjob.annotations_of({"metadata": {"name": "r1"}}) == {}


def test_a_rayjob_on_a_standing_cluster_does_not_say_its_storage():
    assert rayjob.storage_of({"spec": {"clusterSelector": {"ray.io/cluster": "training"}}}) is None


def test_the_submitter_of_a_run_has_a_host():
    assert re.fullmatch(r"\S+@\S+", rayjob.me())
