"""Whatever is typed, put in a file or set in the environment: a documented exit code and a sentence, never a traceback.

The examples are the same in each run (`derandomize`), so that a failure is everybody's.
"""

import io
import os
import sys
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_kube import COMPLETE, RUNNING, FakeKube, rayjob
from support.points import EPOCH

from trainer import config, resolve
from trainer.cli import main
from trainer.cluster import client, follow, status, submit, waiting
from trainer.doctor import machine
from trainer.driver import evaluate, launch
from trainer.errors import CheckpointError, ConfigError, ExitCode
from trainer.storage.record import Record
from trainer.training import fetch

pytestmark = pytest.mark.server

bounded = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
odd = st.sampled_from(
    ["", " ", "-", "--", "0", "-1", "1e400", "nan", "none", "[", "{}", "a b", "../..", "/", "r1", "r2", "R1", "x" * 300]
)
names = st.sampled_from(["r1", "r2", "new", "fast", "seed", "kind", "runs", "missing", "a-file"])
# no bucket: an unreachable one is waited for
places = st.sampled_from(["runs", ".", "none", "a-file", "s3://", "ftp://h/x", "file:///x", "~", "", "runs/r1"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 70_000),
    st.floats(),
    st.floats(0, 1),
    text,
    st.sampled_from(["mlp", "cnn", "sgd", "adamw", "muon", "auto", "bf16", "linear", "1-4", "4-1", "none", "random"]),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=3))
keys = st.sampled_from([*config.keys(), "model", "optimizer", "data", "nope", "model.nope", "seed.x", "", "."])
overrides = (
    st.builds(
        lambda key, value: (
            f"{key}={yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}"
        ),
        keys,
        values,
    )
    | text
)
ANY = st.one_of(names, odd, text)

# of each command: how many arguments it takes, and its options with what they may be given
SETTINGS = {"--recipe": ANY, "--config": ANY, "--set": overrides}
WORKERS = {"--workers": ANY | st.integers(-2, 5000).map(str), "--gpu": None, "--cpu": None, "--cpus-per-worker": ANY}
PLACE = {"--storage": places}
CLUSTER = {"--context": ANY, "--namespace": ANY}
FORMAT = {"--log-format": st.sampled_from(["auto", "live", "plain", "json", "xml", ""])}
COMMANDS = {
    "train": (0, {**SETTINGS, **WORKERS, **PLACE, **FORMAT, "--name": ANY, "--data": places}),
    "fork": (2, {**SETTINGS, **WORKERS, **PLACE, **FORMAT, "--from": ANY, "--data": places}),
    "submit": (0, {**SETTINGS, **WORKERS, **PLACE, **FORMAT, **CLUSTER, "--name": ANY, "--cluster": ANY}),
    "status": (1, {**PLACE, **CLUSTER, "--json": None}),
    "logs": (1, {**PLACE, **CLUSTER, "--raw": None, "--tail": ANY, "--since": ANY, "--follow": None}),
    "stop": (1, {**PLACE, **CLUSTER, "--no-wait": None, "--wait": None}),
    "list": (0, {**PLACE, **CLUSTER, "--json": None}),
    "evaluate": (1, {**SETTINGS, **PLACE, "--json": None, "--tasks": ANY}),
    "report": (2, {**PLACE, "--output": st.sampled_from(["out", "a-file", "a-file/x", ""])}),
    "checkpoints": (2, {**PLACE, "--keep": ANY}),
    "config": (0, {**SETTINGS, "--schema": None}),
    "doctor": (0, {**PLACE, **CLUSTER, "--json": None}),
}
# what a dry run leaves out is what starts Ray, or waits for a run
ALWAYS = {"train": ["--dry-run"], "fork": ["--dry-run"], "submit": ["--no-wait"]}


@st.composite
def commands(draw):
    """A command line: mostly a command with options of its own, and odd values; sometimes anything."""
    command = draw(st.sampled_from(list(COMMANDS)))
    count, options = COMMANDS[command]
    words = draw(st.lists(ANY | st.sampled_from(["ls", "verify", "prune"]), min_size=0, max_size=count + 1))
    for option in draw(st.lists(st.sampled_from(list(options)), max_size=4)):
        value = options[option]
        words += [option] if value is None else [option, draw(value)]
    words += draw(st.lists(ANY | st.sampled_from(["-h", "--help", "--", "--nope"]), max_size=1))
    return [command, *ALWAYS.get(command, []), *words]


environments = st.fixed_dictionaries(
    {},
    optional={
        "TRAINER_STORAGE": places,
        "AWS_ENDPOINT_URL": st.sampled_from(["", "nonsense", "http://127.0.0.1:1"]),
        "AWS_ACCESS_KEY_ID": text,
        "NO_COLOR": st.sampled_from(["", "1"]),
        "FORCE_COLOR": st.sampled_from(["", "1"]),
        "COLUMNS": st.sampled_from(["", "0", "00", "1", "2", "40", "-5", "many", "99999"]),
        "LINES": st.sampled_from(["", "0", "x"]),
        "TERM": st.sampled_from(["", "dumb", "xterm", "unknown"]),
        "LANG": st.sampled_from(["", "C", "de_DE.UTF-8", "nonsense"]),
        "KUBECONFIG": st.sampled_from(["", "none", "a-file", "runs"]),
        "TZ": st.sampled_from(["", "UTC", "nonsense"]),
        "FASHION_MNIST_DIR": st.sampled_from(["", "none", "runs"]),
    },
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two runs, and a cluster in memory with two others; what would start Ray fails the test."""
    record = Record(tmp_path / "runs" / "r1")
    record.create(resolve.load("fast"), {})
    record.add_point(EPOCH)
    Record(tmp_path / "runs" / "r2").create(resolve.load("seed"), {})
    (tmp_path / "a-file").write_text("epochs: 2\n")
    monkeypatch.chdir(tmp_path)
    for module in (follow, status):
        monkeypatch.setattr(module, "POLL_EVERY_S", 0.0)
    for module, seconds in (
        (follow, "RESULT_COMES_S"),
        (submit, "READ_BY_FOLLOWERS_S"),
        (waiting, "CONFIRMED_AFTER_S"),
    ):
        monkeypatch.setattr(module, seconds, 0.0)
    monkeypatch.setattr(machine, "checks", lambda *_: [])
    monkeypatch.setattr(fetch, "find_dataset", lambda *_: tmp_path)

    def started(*_, **__):
        raise AssertionError("it was started")

    monkeypatch.setattr(launch, "run", started)
    monkeypatch.setattr(evaluate, "evaluate", mock.Mock(side_effect=CheckpointError("no weights")))
    return tmp_path


def run(arguments, environment):
    """Run a command in this process: its exit code, and what it printed."""
    kube = FakeKube(rayjob(**COMPLETE), rayjob("r2", jobDeploymentStatus="Initializing"), rayjob("new", **RUNNING))
    kube.jobs["new"]["status"]["jobStatus"] = "STOPPED"  # it has ended, so that following it ends too
    out, err = io.StringIO(), io.StringIO()
    before = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ}
    with (
        mock.patch.dict(os.environ, {**before, **environment}, clear=True),
        mock.patch.object(client, "connect", return_value=kube),
        mock.patch.object(sys, "argv", ["trainer", *arguments]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
    ):
        try:
            main.main()
            code = 0
        except SystemExit as end:
            code = end.code
    return code, out.getvalue() + err.getvalue()


ALLOWED = {int(code) for code in ExitCode} - {ExitCode.INTERNAL}


@bounded
@given(commands(), environments)
def test_any_command_line_ends_with_a_documented_code_and_no_traceback(folder, arguments, environment):
    code, printed = run(arguments, environment)
    assert code in ALLOWED, printed
    assert "Traceback" not in printed
    assert "A bug in the trainer" not in printed


@bounded
@given(st.lists(ANY, max_size=4), environments)
def test_any_words_end_with_a_documented_code_and_no_traceback(folder, arguments, environment):
    code, printed = run(arguments, environment)
    assert code in ALLOWED, printed
    assert "Traceback" not in printed


def nested(flat):
    """Settings by dotted key as a file nests them."""
    content = {}
    for key, value in flat.items():
        section, _, rest = key.partition(".")
        if rest and isinstance(content.get(section, {}), dict):
            content.setdefault(section, {})[rest] = value
        else:
            content[section] = value
    return content


def load_or_refuse(*arguments):
    """A config, or None where it was refused as a mistake of the user's; nothing else may be raised."""
    try:
        return resolve.load(*arguments)
    except ConfigError:
        return None


@settings(bounded, max_examples=300)
@given(st.dictionaries(keys, values, max_size=5))
def test_any_yaml_is_a_config_or_a_mistake_with_a_fix(tmp_path, flat):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(nested(flat), allow_unicode=True))
    found = load_or_refuse("fast", file)
    if found is not None:
        assert found.total_steps >= 1
        file.write_text(found.to_yaml())
        assert resolve.read(file) == found  # what a run writes down is what it was


@settings(bounded, max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda each: each.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_config_or_a_mistake(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    load_or_refuse("fast", file)


@settings(bounded, max_examples=300)
@given(st.lists(overrides, max_size=3))
def test_any_setting_is_taken_or_a_mistake(given_settings):
    load_or_refuse("fast", None, given_settings)
