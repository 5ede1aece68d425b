"""Values stay what they are: whatever a string holds, the objects hold that very string.

YAML 1.1 reads `no` as false, `0755` as 493 and `12e4` as a number. Each chart is rendered twice: with a harmless word
in the place of every string of its kitchen sink, and with one of those words. The objects must differ in that alone.
"""

import copy
import functools
import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from support.charts import CHARTS, ROOT, UniqueKeys, generate, values_of

from trainer.cluster import rayjob
from trainer.observe import cost

WORDS = [
    "no",
    "1234",
    "12e4",
    "1.20",
    "0755",
    "0x1f",
    "~",
    "null",
    "true",
    "=",
    "<<",
    "1:20",
    "2026-13-01",
    "2026-01-01 10:00:00 +1",
    'with "quotes"',
    "it's: a colon",
    "{{ .Values }} # no comment",
    "- [item",
    "two\n\n  lines",
    "a long line " * 20 + "ends",
]
# Around a word, where the schema wants more than a word: the first one that it takes.
AROUND = ["{}", "word/{}", "s3://bucket/{}", "http://host/{}"]
# Maps of the user's own keys; a key is a string as well.
FREE = {"annotations", "podLabels", "podAnnotations", "nodeSelector", "rayLabels", "rayResources", "matchLabels"}

Path = tuple[str | int, ...]


def kitchen_sink(chart: str) -> dict[str, Any]:
    """Every key of a chart's values."""
    values: dict[str, Any] = yaml.safe_load((CHARTS / "kitchen-sink" / f"{chart}.yaml").read_text())
    if chart == "training":
        values["image"]["digest"] = ""  # another would hide the tag
    return values


def strings(values: Any, path: Path = ()) -> Iterator[Path]:
    """Path of each string."""
    if isinstance(values, str):
        yield path
    elif isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from strings(value, (*path, key))


def with_string(values: Any, path: Path, word: str) -> Any:
    """The values with another string at a path."""
    values = copy.deepcopy(values)
    node = values
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = word
    return values


def with_keys(values: Any, word: str, path: Path = ()) -> Any:
    """The values with a word as another key of each free map."""
    if isinstance(values, list):
        return [with_keys(value, word, path) for value in values]
    if not isinstance(values, dict):
        return values
    more = {word: "1"} if path and path[-1] in FREE else {}
    return {key: with_keys(value, word, (*path, key)) for key, value in values.items()} | more


def replaced(node: Any, words: dict[str, str]) -> Any:
    """A tree with words put in the place of others, in all its strings and keys."""
    if isinstance(node, dict):
        return {replaced(key, words): replaced(value, words) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(item, words) for item in node]
    if isinstance(node, str):
        return re.sub("|".join(words) or "(?!)", lambda found: words[found[0]], node)
    return node


def parsed(text: str) -> list[Any]:
    """The objects that a chart renders, those inside ConfigMaps too."""
    objects = [manifest for manifest in yaml.load_all(text, UniqueKeys) if manifest]
    for manifest in objects:
        if manifest["kind"] == "ConfigMap":
            manifest["data"] = {key: yaml.load(content, UniqueKeys) for key, content in manifest["data"].items()}
    return [with_prices(manifest) for manifest in objects]


def with_prices(node: Any) -> Any:
    """A tree with the JSON of the prices read: its strings are in there."""
    if isinstance(node, list):
        return [with_prices(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("name") == cost.PRICES:
        return {**node, "value": json.loads(node["value"])}
    return {key: with_prices(value) for key, value in node.items()}


def rendered(chart: str, values: Any) -> list[Any]:
    """A chart's objects."""
    return parsed(generate.render(ROOT / "helm" / chart, values, "training"))


@functools.cache
def words_by_path(chart: str) -> tuple[Any, dict[Path, tuple[str, str]], jsonschema.Draft7Validator]:
    """The kitchen sink with a word of its own at each path that takes one; that word, and what is around it."""
    validator = jsonschema.Draft7Validator(json.loads((ROOT / "helm" / chart / "values.schema.json").read_text()))
    values, found = kitchen_sink(chart), {}
    for number, path in enumerate(strings(values)):
        for word, around in ((word, around) for word in (f"zq{number}x", f"7070{number:03}707") for around in AROUND):
            changed = with_string(values, path, around.format(word))
            if validator.is_valid(changed):
                values, found[path] = changed, (word, around)
                break
    return values, found, validator


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("chart", ["training", "monitoring"])
def test_a_string_of_the_values_arrives_as_that_string(chart, word):
    plain, places, validator = words_by_path(chart)
    assert len(places) >= {"training": 35, "monitoring": 5}[chart]
    values, words = plain, {}
    for path, (own, around) in places.items():
        changed = with_string(values, path, around.format(word))
        if validator.is_valid(changed):
            values, words[own] = changed, word
    assert words
    assert rendered(chart, values) == replaced(rendered(chart, plain), words)


@pytest.mark.parametrize("word", [word for word in WORDS if re.fullmatch(r"[\w.-]+", word)])
def test_a_key_of_the_values_arrives_as_that_string(word):
    plain = kitchen_sink("training")
    expected = replaced(rendered("training", with_keys(plain, "zqx")), {"zqx": word})
    assert rendered("training", with_keys(plain, word)) == expected


def test_submit_reads_each_string_as_the_string_that_it_is():
    annotations = {f"word-{number}": word for number, word in enumerate(WORDS)}
    text = generate.render(ROOT / "helm" / "training", {**values_of("kind"), "podAnnotations": annotations}, "training")
    (template,) = [
        manifest["data"]["rayjob.yaml"]
        for manifest in yaml.load_all(text, UniqueKeys)
        if manifest and manifest["metadata"]["name"] == "training-rayjob"
    ]
    job = rayjob.load(template)
    assert job == yaml.load(template, UniqueKeys)
    assert job["spec"]["submitterPodTemplate"]["metadata"]["annotations"] == annotations


@pytest.mark.parametrize("name", ["no", "y", "on", "null", "true", "e1", "n"])
def test_names_that_yaml_reads_as_other_types_stay_names(name):
    def values(word: str) -> dict[str, Any]:
        group = {"maxReplicas": 2, "accelerator": {"resource": "", "count": 0}}
        return {
            **kitchen_sink("training"),
            "storage": {"uri": "s3://b", "env": {word.upper(): "x"}},
            "job": {"name": word},
            "workerGroups": {"cpu": None, "gpu": None, word: group},
        }

    plain = rendered("training", values("zqx"))
    assert rendered("training", values(name)) == replaced(plain, {"zqx": name, "ZQX": name.upper()})


@pytest.mark.parametrize(
    ("chart", "name"),
    [
        *(("training", name) for name in ("no", "null", "true", "e12")),
        *(("monitoring", name) for name in ("no", "null", "1234567", "12e4", "0x1f", "0755")),
    ],
)
def test_a_release_and_a_namespace_of_any_name_keep_it(chart, name):
    def rendered_as(word: str) -> list[Any]:
        return parsed(generate.render(ROOT / "helm" / chart, kitchen_sink(chart), word, word))

    assert rendered_as(name) == replaced(rendered_as("zqx"), {"zqx": name})


@pytest.mark.parametrize("namespace", ["1234567", "12e4", "0x1f", "0755"])
def test_a_namespace_of_digits_stays_a_string(namespace):
    text = generate.render(ROOT / "helm" / "training", kitchen_sink("training"), namespace)
    (job,) = [m for m in parsed(text) if m["kind"] == "ConfigMap" and m["metadata"]["name"].endswith("-rayjob")]
    assert {template["metadata"]["namespace"] for template in job["data"].values()} == {namespace}


@pytest.mark.parametrize("chart", ["training", "monitoring"])
@pytest.mark.parametrize("version", ["12e4", "1234567", "1.10", "0x1f"])
def test_the_charts_own_version_stays_a_string(chart, version, tmp_path):
    def rendered_as(word: str) -> list[Any]:
        folder = shutil.copytree(ROOT / "helm" / chart, tmp_path / word)
        about = (folder / "Chart.yaml").read_text()
        (folder / "Chart.yaml").write_text(re.sub(r"(?m)^appVersion: \S+", f'appVersion: "{word}"', about))
        values = {key: value for key, value in kitchen_sink(chart).items() if key != "image"}
        return parsed(generate.render(folder, values, "training", "training"))

    assert rendered_as(version) == replaced(rendered_as("zqx"), {"zqx": version})


def test_no_template_writes_a_scalar_without_quotes():
    # what the tests above cannot see: a value that only another value shows
    plain = re.compile(
        r"(?:[:,\[] |- )\{\{-? (?!.*\b(?:quote|toJson|toYaml|int64|nindent|else|end)\b)(?!\$autoscaling )"
    )
    found = [
        f"{template.relative_to(ROOT)}: {line.strip()}"
        for template in sorted((ROOT / "helm").glob("*/templates/*"))
        if template.suffix in (".yaml", ".tpl")
        for line in template.read_text().splitlines()
        if plain.search(line) and "{{- fail" not in line
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("storage", "existingSecret"), "my secret"),
        (("storage", "existingSecret"), "$(id)"),
        (("auth", "existingSecret"), "Token"),
        (("image", "pullSecrets"), ["a b"]),
        (("image", "tag"), "1 2"),
        (("image", "repository"), "a b"),
        (("kueue", "queueName"), "team queue"),
    ],
    ids=str,
)
def test_a_name_that_kubernetes_would_refuse_later_is_refused_at_once(path, value, refused):
    assert path[-1] in refused({**values_of("defaults"), path[0]: {path[1]: value}})
