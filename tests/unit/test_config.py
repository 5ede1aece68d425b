import json

import pytest
import yaml

from trainer import config, resolve
from trainer.errors import ConfigError


@pytest.mark.parametrize("recipe", ["accurate", "fast", "seed"])
def test_every_recipe_is_a_valid_config_that_survives_its_own_yaml(recipe, tmp_path):
    resolved = resolve.load(recipe)
    (tmp_path / "config.yaml").write_text(resolved.to_yaml())
    assert resolve.read(tmp_path / "config.yaml") == resolved
    assert resolve.read(tmp_path / "config.yaml").sha256 == resolved.sha256


def test_the_seed_recipe_is_the_papers_training_function():
    seed = resolve.load("seed")
    assert (seed.model.hidden, seed.model.dropout, seed.model.relu_output) == ([512, 512], 0.25, True)
    assert (seed.optimizer.name, seed.optimizer.lr, seed.optimizer.momentum) == ("sgd", 1e-3, 0.9)
    assert (seed.optimizer.schedule, seed.optimizer.warmup, seed.optimizer.nesterov) == ("constant", 0.0, False)
    assert (seed.global_batch_size, seed.epochs, seed.data.mean, seed.data.std) == (32, 10, 0.5, 0.5)
    assert (seed.optimizer.weight_decay, seed.optimizer.label_smoothing, seed.data.flip) == (0.0, 0.0, "none")


def test_a_file_goes_over_the_recipe_and_a_setting_over_both(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7\nmodel: {dropout: 0.1}\n")
    resolved = resolve.load("seed", file, ["model.dropout=0.3"])
    assert (resolved.epochs, resolved.model.dropout, resolved.model.hidden) == (7, 0.3, [512, 512])


def test_numbers_in_exponent_notation_are_numbers():
    assert resolve.load(None, None, ["optimizer.lr=1e-3"]).optimizer.lr == 0.001


def test_a_worker_range_of_one_number_is_that_number():
    assert resolve.load(None, None, ["workers=2-2"]).workers == 2
    assert resolve.load(None, None, ["workers=1-4"]).worker_range == (1, 4)


def test_differences_name_each_setting_with_both_values():
    changed = config.differences(resolve.load("seed"), resolve.load("seed", None, ["epochs=3", "model.dropout=0.5"]))
    assert changed == ["epochs: 10 → 3", "model.dropout: 0.25 → 0.5"]


def test_the_hash_tells_configs_apart_and_nothing_else():
    assert resolve.load("seed").sha256 == resolve.load("seed").sha256
    assert resolve.load("seed").sha256 != resolve.load("seed", None, ["seed=1"]).sha256


def test_the_schema_is_closed_and_says_what_every_setting_means():
    schema = config.schema()
    for section in [schema, *schema["$defs"].values()]:
        assert section["additionalProperties"] is False
        assert all("description" in field or "$ref" in field for field in section["properties"].values())


def test_the_schema_and_the_trainer_accept_the_same_recipe():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(json.dumps(yaml.safe_load(resolve.load("accurate").to_yaml()))), config.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"epoch": 3}, config.schema())


def test_steps_count_the_smaller_last_batch():
    resolved = resolve.load(None, None, ["epochs=2", "global_batch_size=7000"])
    assert (resolved.steps_per_epoch, resolved.total_steps) == (9, 18)


@pytest.mark.parametrize("name", ["a", "fast-20260101-101010", "x" * 40])
def test_names_that_kubernetes_takes_are_taken(name):
    assert resolve.check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "x" * 41, "a/b", "..", "a b"])
def test_other_names_are_refused_with_the_rule(name):
    with pytest.raises(ConfigError, match=r"lower-case letters, digits and '-'"):
        resolve.check_name(name)


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-3", ".1e-2", "0.001"])
def test_numbers_mean_the_same_in_a_file_and_on_the_command_line(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(f"optimizer:\n  lr: {text}\n")
    assert resolve.load(None, file).optimizer.lr == 0.001
    assert resolve.load(None, None, [f"optimizer.lr={text}"]).optimizer.lr == 0.001
