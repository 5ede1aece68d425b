import pytest

from trainer import resolve
from trainer.config import Config
from trainer.errors import ConfigError


def test_each_layer_overrides_the_one_before(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 5\noptimizer: {lr: 0.3}\n")
    base = "epochs: 4\nseed: 9\noptimizer: {lr: 0.2}\n"
    config = resolve.load("fast", file, ["epochs=6"], base)
    assert (config.epochs, config.seed, config.optimizer.lr, config.optimizer.muon_lr) == (6, 9, 0.3, 0.07)


def test_without_a_recipe_the_defaults_hold():
    assert resolve.load(None) == Config()


def test_a_dotted_key_changes_one_setting_of_a_section():
    config = resolve.load("fast", None, ["model.hidden=[8]", "optimizer.lr=1e-3"])
    assert (config.model.hidden, config.optimizer.lr, config.optimizer.name) == ([8], 0.001, "muon")


def test_a_recorded_config_is_read_back(tmp_path):
    config = resolve.load("accurate")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert resolve.read(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("r", True), ("mlp-1", True), ("1st", True), ("a" * 40, True), ("a" * 41, False), ("-a", False), ("a-", False),
     ("A", False), ("a_b", False), ("", False), ("a/b", False), ("..", False)],
)  # fmt: skip
def test_names_of_runs_are_names_of_folders_and_objects(name, allowed):
    if allowed:
        assert resolve.check_name(name) == name
    else:
        with pytest.raises(ConfigError, match="cannot name a run"):
            resolve.check_name(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML at line 1"),
        ("- a", "holds a list"),
        (b"\xff\xfe\xfa", "not text"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, words):
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words):
        resolve.load("fast", file)


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "c.yaml").touch()
    assert resolve.load("fast", tmp_path / "c.yaml") == resolve.load("fast")
