"""Bad input is refused before Ray starts, in a sentence with the field, the value and the fix, by its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import ExitCode

ROOT = Path(__file__).parents[3]
TRAIN = ["train", "--name", "x"]


def setting(text):
    return [*TRAIN, "--set", text]


# arguments, exit code, and what the sentence must say: the field, the value, the fix
CASES = [
    (["submit", "--name", "1st"], ExitCode.CONFIG, ["name: '1st'", "begins with a letter", "r-1st"]),
    ([*TRAIN, "--storage", ""], ExitCode.STORAGE, ["storage:", "it is empty", "give a folder"]),
    (setting("epoch=3"), ExitCode.CONFIG, ["epoch:", "no such setting", "did you mean epochs"]),
    (setting("lr=0.1"), ExitCode.CONFIG, ["lr:", "did you mean optimizer.lr"]),
    (setting("optimizer.learning_rate=0.1"), ExitCode.CONFIG, ["optimizer.learning_rate:", "no such setting"]),
    (setting("zzz=1"), ExitCode.CONFIG, ["zzz:", "`trainer config` lists every key"]),
    (setting("epochs=ten"), ExitCode.CONFIG, ["epochs:", "'ten'", "valid integer"]),
    (setting("epochs=0"), ExitCode.CONFIG, ["epochs:", "0", "greater than or equal to 1"]),
    (setting("epochs=1.5"), ExitCode.CONFIG, ["epochs:", "1.5", "integer"]),
    (setting("epochs=true"), ExitCode.CONFIG, ["epochs:", "True", "integer"]),
    (setting("epochs="), ExitCode.CONFIG, ["epochs:", "None", "integer"]),
    (setting("epochs"), ExitCode.CONFIG, ["--set", "'epochs'", "--set epochs=20"]),
    (setting("=3"), ExitCode.CONFIG, ["--set", "'=3'", "key=value"]),
    (setting("epochs=[1"), ExitCode.CONFIG, ["--set", "'epochs=[1'", "not valid YAML"]),
    (setting("seed=-1"), ExitCode.CONFIG, ["seed:", "-1", "greater than or equal to 0"]),
    (setting("global_batch_size=0"), ExitCode.CONFIG, ["global_batch_size:", "0", "greater than or equal to 1"]),
    (setting("global_batch_size=60001"), ExitCode.CONFIG, ["global_batch_size:", "60001", "less than or equal"]),
    (
        [*setting("global_batch_size=33"), "--workers", "2"],
        ExitCode.CONFIG,
        ["global_batch_size: 33", "not divisible by 2 workers", "use 32 or 34"],
    ),
    (
        [*setting("global_batch_size=2"), "--workers", "1-4"],
        ExitCode.CONFIG,
        ["global_batch_size: 2", "not divisible by 1-4 workers", "use 4"],
    ),
    ([*TRAIN, "--workers", "two"], ExitCode.CONFIG, ["workers:", "'two'", "give a number from 1, or MIN-MAX"]),
    ([*TRAIN, "--workers", "0"], ExitCode.CONFIG, ["workers:", "0", "give a number from 1"]),
    ([*TRAIN, "--workers", "3-2"], ExitCode.CONFIG, ["workers:", "'3-2'", "MIN from 1 and not above MAX"]),
    (setting("workers=[1]"), ExitCode.CONFIG, ["workers:", "[1]", "valid"]),
    (setting("gpu=1"), ExitCode.CONFIG, ["gpu:", "1", "valid boolean"]),
    (setting("precision=fp16"), ExitCode.CONFIG, ["precision:", "'fp16'", "'auto', 'fp32' or 'bf16'"]),
    (setting("model.name=rnn"), ExitCode.CONFIG, ["model.name:", "'rnn'", "'mlp' or 'cnn'"]),
    (setting("model.hidden=512"), ExitCode.CONFIG, ["model.hidden:", "512", "valid list"]),
    (setting("model.hidden=[512,0]"), ExitCode.CONFIG, ["model.hidden", "0", "greater than or equal to 1"]),
    (setting("model.blocks=[[8],[8],[8],[8],[8]]"), ExitCode.CONFIG, ["model.blocks:", "[8], [8]]", "give 1 to 4"]),
    (setting("model.dropout=1"), ExitCode.CONFIG, ["model.dropout:", "1", "less than 1"]),
    (setting("model=mlp"), ExitCode.CONFIG, ["model:", "'mlp'", "valid dictionary"]),
    (setting("data.std=1e-320"), ExitCode.CONFIG, ["data.std:", "1e-320", "greater than or equal to 0.001"]),
    (
        [*TRAIN, "--workers", "999"],
        ExitCode.RESOURCES,
        ["workers: 999 need at least one CPU core", "use --workers"],
    ),
    (setting("optimizer.lr=0"), ExitCode.CONFIG, ["optimizer.lr:", "0", "greater than 0"]),
    (setting("optimizer.lr=.nan"), ExitCode.CONFIG, ["optimizer.lr:", "nan", "finite number"]),
    (
        setting("optimizer.momentum=0.0"),
        ExitCode.CONFIG,
        ["nesterov", "needs momentum above 0", "set optimizer.momentum"],
    ),
    (setting("optimizer.warmup=2"), ExitCode.CONFIG, ["optimizer.warmup:", "2", "less than or equal to 1"]),
    (
        setting("data.flip=sometimes"),
        ExitCode.CONFIG,
        ["data.flip:", "'sometimes'", "'none', 'random' or 'alternating'"],
    ),
    (setting("data.validation_samples=60000"), ExitCode.CONFIG, ["data.validation_samples:", "60000", "less than"]),
    ([*TRAIN, "--recipe", "slow"], ExitCode.CONFIG, ["recipe:", "'slow'", "accurate, fast, seed"]),
    ([*TRAIN, "--config", "none.yaml"], ExitCode.CONFIG, ["none.yaml", "No such file", "give the path"]),
    ([*TRAIN, "--config", "broken.yaml"], ExitCode.CONFIG, ["broken.yaml", "not valid YAML at line 2", "indentation"]),
    ([*TRAIN, "--config", "list.yaml"], ExitCode.CONFIG, ["list.yaml", "holds a list", "key: value"]),
    (["train", "--name", "My Run"], ExitCode.CONFIG, ["name:", "'My Run'", "lower-case letters"]),
    ([*TRAIN, "--epochs", "3"], ExitCode.CONFIG, ["No such option", "--epochs"]),
    ([*TRAIN, "--cpus-per-worker", "0"], ExitCode.CONFIG, ["cpus_per_worker:", "0", "greater than or equal to 1"]),
    (
        [*TRAIN, "--workers", "1000", "--set", "global_batch_size=1000"],
        ExitCode.RESOURCES,
        ["workers: 1000", "this machine has", "use --workers"],
    ),
    (
        [*TRAIN, "--cpus-per-worker", "1000"],
        ExitCode.RESOURCES,
        ["1000 CPU cores", "this machine has", "--cpus-per-worker"],
    ),
    ([*TRAIN, "--gpu"], ExitCode.RESOURCES, ["gpu: true", "no GPU", "train without --gpu"]),
    ([*TRAIN, "--storage", "a-file"], ExitCode.STORAGE, ["storage: /", "/a-file cannot be written", "--storage"]),
    ([*TRAIN, "--storage", "/proc/runs"], ExitCode.STORAGE, ["storage: /proc/runs", "cannot be written", "--storage"]),
    ([*TRAIN, "--storage", "ftp://host/runs"], ExitCode.STORAGE, ["ftp://host/runs", "unknown scheme", "s3, gs, az"]),
    ([*TRAIN, "--storage", "s3://"], ExitCode.STORAGE, ["s3://", "names no bucket", "s3://bucket/prefix"]),
    ([*TRAIN, "--data", "empty"], ExitCode.DATA, ["empty", "train-images-idx3-ubyte"]),
    (
        ["evaluate", "nobody"],
        ExitCode.STORAGE,
        ["nobody", "neither a run in /", "/runs nor a run's folder", "it has no runs"],
    ),
    (
        ["evaluate", "w.safetensors"],
        ExitCode.CONFIG,
        ["w.safetensors", "without their network", "--recipe"],
    ),
    (
        ["evaluate", "nobody", "--recipe", "fast"],
        ExitCode.CONFIG,
        ["nobody is a run", "leave out --recipe, --config and --set"],
    ),
    (["report", "nobody"], ExitCode.STORAGE, ["nobody", "neither a run in /", "/runs nor a run's folder"]),
    (["config", "--set", "epochs=x"], ExitCode.CONFIG, ["epochs:", "'x'", "valid integer"]),
    (["dance"], ExitCode.CONFIG, ["No such command", "dance"]),
]

RUN_ALL = """
import contextlib, io, json, sys
from trainer.cli import main
from trainer.training import device
device.gpu_count = lambda: 0  # so that --gpu is refused on machines with one, too
for line in sys.stdin:
    sys.argv = ["trainer", *json.loads(line)]
    out, code = io.StringIO(), 0
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(io.StringIO()):
        try:
            main.main()
        except SystemExit as end:
            code = end.code
    slow = sorted({"ray", "torch"} & set(sys.modules))
    print(json.dumps({"code": code, "text": " ".join(out.getvalue().split()), "imported": slow}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each case printed and returned, all from one process; and what that process had imported by then."""
    folder = tmp_path_factory.mktemp("bad-input")
    (folder / "broken.yaml").write_text("epochs: 3\n  model: [\n")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "a-file").write_text("")
    (folder / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input="\n".join(json.dumps(arguments) for arguments, *_ in CASES),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": "", "HOME": str(folder), "COLUMNS": "500", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
    )
    return dict(enumerate(json.loads(line) for line in done.stdout.splitlines()))


@pytest.mark.parametrize("case", range(len(CASES)), ids=[" ".join(arguments)[:60] for arguments, *_ in CASES])
def test_bad_input_is_refused_with_field_value_and_fix(case, answers):
    _, code, parts = CASES[case]
    answer = answers[case]
    assert answer["code"] == code, answer["text"]
    assert [part for part in parts if part not in answer["text"]] == [], answer["text"]
    assert "Traceback" not in answer["text"]


def test_nothing_slow_was_imported_for_any_refusal(answers):
    # what makes a refusal take a fraction of a second: neither Ray nor PyTorch is imported for it
    assert len(answers) == len(CASES) >= 30
    assert {name for answer in answers.values() for name in answer["imported"]} == set()
