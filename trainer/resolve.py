"""How a config is put together: a recipe, then a file, then ``--set key=value``, each over the one before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from trainer.config import Config, differences, from_mapping
from trainer.errors import ConfigError

DEFAULT_RECIPE = "fast"
RUN_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")  # also a Kubernetes object's name, with room for a suffix


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that 1e-3 is a number, as in YAML 1.2 and everywhere else."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # PyYAML may lack its C part
    """The same in C, ten times as fast: a list of a thousand runs reads a thousand configs."""


for _loader in (_Loader, _FastLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
    )
FAST_UP_TO = 2000  # characters; text that is nested some ten thousand times deep would overflow C's stack


def recipes() -> list[str]:
    """Return the names of the recipes in the package."""
    folder = resources.files("trainer") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(recipe: str | None, file: Path | None = None, overrides: Sequence[str] = (), base: str = "") -> Config:
    """Return a config made of a recipe, a YAML file over it and ``key=value`` overrides over both; see `merge`.

    Raises:
        ConfigError: one line for each mistake: the field, its value, and what to do.
    """
    return from_mapping(merge(recipe, file, overrides, base))


def merge(
    recipe: str | None, file: Path | None = None, overrides: Sequence[str] = (), base: str = ""
) -> dict[str, Any]:
    """Return the settings of a recipe, a file over it and overrides over both, as they were given.

    `base` is YAML too, between recipe and file: the settings that a cluster has for all its runs.

    Raises:
        ConfigError: the recipe, the file or an override cannot be read.
    """
    settings: dict[str, Any] = {}
    if recipe is not None:
        if recipe not in recipes():
            raise ConfigError(f"recipe: {recipe!r} does not exist", f"choose one of {', '.join(recipes())}")
        text = (resources.files("trainer") / "recipes" / f"{recipe}.yaml").read_text()
        _merge(settings, _parse_mapping(text, recipe))
    _merge(settings, _parse_mapping(base, "train.yaml of the cluster"))
    if file is not None:
        _merge(settings, _read_file(file))
    for override in overrides:
        _merge(settings, _parse_override(override))
    return settings


def closest_recipe(config: Config) -> str:
    """Return the recipe that a config differs from in the fewest settings: the one it was made of, or is most like."""
    return min(recipes(), key=lambda recipe: (len(differences(load(recipe), config)), recipe))


def read(file: Path) -> Config:
    """Return the config of a file that holds a whole one, such as a run's ``config.yaml``."""
    return from_mapping(_read_file(file))


def check_name(name: str) -> str:
    """Return a run's name if it is valid: it becomes a folder and a Kubernetes object.

    Raises:
        ConfigError: the name has other characters, or is too long.
    """
    if not RUN_NAME.fullmatch(name):
        raise ConfigError(
            f"name: {name!r} cannot name a run",
            "use up to 40 lower-case letters, digits and '-', with a letter or digit at both ends, such as mlp-1",
        )
    return name


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return _parse_mapping(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"config: {file} cannot be read ({reason})", "give the path of a YAML file") from None


def _parse_mapping(text: str, source: str) -> dict[str, Any]:
    try:
        settings = _parse(text)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # a date that is none; nested deeper than Python reads
        where = (
            f" at line {error.problem_mark.line + 1}"
            if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark
            else ""
        )
        raise ConfigError(f"config: {source} is not valid YAML{where}", "check its indentation and colons") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"config: {source} holds a {type(settings).__name__}", "write lines of `key: value`")
    return settings


def _parse(text: str) -> Any:
    with suppress(yaml.YAMLError, ValueError, RecursionError):  # the other one says better where the mistake is
        if len(text) <= FAST_UP_TO:
            return yaml.load(text, _FastLoader)  # noqa: S506 # a SafeLoader
    return yaml.load(text, _Loader)  # noqa: S506 # a SafeLoader


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set: {override!r} is not key=value", "write it as in --set epochs=20")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set: the value of {override!r} is not valid YAML", "quote it if it is text") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
