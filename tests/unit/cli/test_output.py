"""What the commands print, whatever they print to: pipes, narrow terminals, other encodings, closed streams.

Each case is a process of its own, forked from one that has imported the command line already.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.points import EPOCH

from trainer import resolve
from trainer.errors import EXIT_CODE_MEANING
from trainer.storage import checkpoints
from trainer.storage.checkpoints import Best, Checkpoint
from trainer.storage.record import Record

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
BROKEN_PIPE = 141
# every command that prints without a cluster and without Ray, good and bad
COMMANDS = [
    "list",
    "list --json",
    "list --storage none",
    "status",
    "status r1 --storage runs",
    "status r1 --storage runs --json",
    "logs r1 --storage runs",
    "logs r1 --storage runs --raw",
    "checkpoints ls r1",
    "checkpoints verify r1",
    "checkpoints ls r2",
    "config",
    "config --schema",
    "config --set nope=1",
    "report r2",
    "report none",
    "fork r1 r3 --set model.hidden=[9]",
    "fork r1 r3 --set epochs=9 --data none",
    "train --data none",
    "train --dry-run --set epochs=9 --data none",
    "dance",
    "--version",
]
HELP = ["-h", "train -h", "list --help", "logs --help", "checkpoints -h"]

RUN_ALL = r"""
import gc, io, json, os, sys
import trainer.cli.cluster, trainer.cli.runs, trainer.cli.train
import kubernetes.client, kubernetes.config  # once: each takes a second
import trainer.cluster.client, trainer.driver.preflight, trainer.observe.page
from trainer.cli import main

before = sys.stdout, sys.stderr
for warm_up in ("-h", "list", "status none --storage none"):  # what this imports, no case need import
    sys.argv = ["trainer", *warm_up.split()]
    sys.stdout = sys.stderr = io.StringIO()
    try:
        main.main()
    except SystemExit:
        pass
sys.stdout, sys.stderr = before
gc.freeze()

def child(case, ends):
    # what Python does at a start: streams as the environment says, None where there is no file
    for number, name in ((1, "stdout"), (2, "stderr")):
        if name in case["closed"]:
            os.close(number)
            setattr(sys, name, None)
        else:
            os.dup2(ends[number - 1], number)
            buffered = open(number, "wb", closefd=False)
            setattr(sys, name, io.TextIOWrapper(buffered, case["encoding"], line_buffering=number == 2))
    os.environ.clear()
    os.environ.update(case["environment"])
    sys.argv = ["trainer", *case["arguments"]]
    try:
        main.main()
    except SystemExit as end:
        if case["cut"] or case["closed"]:
            raise  # Python may still complain of what it cannot write at its end, which takes half a second
        sys.stdout.flush()
        os._exit(end.code or 0)

def read(ends, encoding):
    texts = []
    for end in ends:
        with open(end, "rb") as stream:
            texts.append(stream.read().decode(encoding))
    return texts

for line in sys.stdin:
    case = json.loads(line)
    out, err = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        if case["cut"]:
            os.close(out[0])
        child(case, (out[1], err[1]))
        sys.exit(0)
    os.close(out[1]), os.close(err[1])
    if case["cut"]:
        os.close(out[0])  # nobody reads any more
        texts = ["", *read([err[0]], case["encoding"])]
    else:
        texts = read([out[0], err[0]], case["encoding"])
    _, status = os.waitpid(process, 0)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run r1, which has all that a record may have, and r2, which has nearly nothing."""
    folder = tmp_path_factory.mktemp("output")
    record = Record(folder / "runs" / "r1")
    record.create(resolve.load("fast"), {"system": "Linux"})
    record.add_event({"event": "run_started", "pid": 1, "host": "h", "process_created": EPOCH["time"] - 20})
    record.add_event({"event": "warning", "message": "a sentence that is longer than any narrow terminal – ✓ Größe"})
    record.add_point(EPOCH)
    for step in (5, 10):
        checkpoints.commit(record.place, Checkpoint(step, 1), dict.fromkeys(checkpoints.FILES, b"x"), {"attempt": 1})
    checkpoints.write_best(record.place, Best(5, 0.9))
    Record(folder / "runs" / "r2").create(resolve.load("seed"), {})
    return folder


def printed(folder, commands, encoding="utf-8", closed=(), cut=False, **environment):
    """Run commands, and return exit code, stdout and stderr of each."""
    base = {"HOME": str(folder), "PATH": "", "TZ": "UTC", "COLUMNS": "120"}
    cases = [
        {
            "arguments": command.split(),
            "encoding": encoding,
            "closed": list(closed),
            "cut": cut,
            "environment": {**base, **environment},
        }
        for command in commands
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input="\n".join(map(json.dumps, cases)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # this checkout's code, wherever the environment was made
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(commands), done.stderr
    return answers


def check(command, answer, allowed=frozenset(EXIT_CODE_MEANING)):
    text = answer["out"] + answer["err"]
    for sign in ("Traceback", "Exception ignored", "A bug in the trainer"):
        assert sign not in text, f"{command}: {text}"
    assert answer["code"] in allowed - {1}, f"{command}: {answer}"


def without_colour(text):
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def without_times(text):
    return re.sub(r"\d\d:\d\d(:\d\d)?|\d{8}-\d{6}", "T", text)


@pytest.fixture(scope="module")
def plain(folder):
    """What each command prints to a wide pipe."""
    return printed(folder, COMMANDS, COLUMNS="200")


def test_every_command_prints_whole_lines_without_spaces_at_their_end(plain):
    for command, answer in zip(COMMANDS, plain, strict=True):
        check(command, answer)
        assert answer["out"] + answer["err"], command
        lines = (answer["out"] + answer["err"]).splitlines()
        if command != "dance":  # a mistake in the command line is shown by typer, in a box
            assert [line for line in lines if line != line.rstrip()] == [], command


# what a terminal or a script may set; typer draws its own boxes as wide as the terminal
SURROUNDINGS = [
    {"COLUMNS": "40"},
    {"COLUMNS": "60"},
    {"COLUMNS": "0"},
    {"COLUMNS": "wide"},
    {"NO_COLOR": "1"},
    {"TERM": "dumb"},
    {"LANG": "C", "LC_ALL": "C"},
    {"FORCE_COLOR": "1", "COLUMNS": "40"},
]


@pytest.mark.parametrize("surroundings", SURROUNDINGS, ids=str)
def test_a_pipe_gets_the_same_lines_whatever_the_terminal(folder, plain, surroundings):
    commands = [command for command in COMMANDS if command != "dance"]
    answers = dict(zip(commands, printed(folder, commands, **surroundings), strict=True))
    before = dict(zip(COMMANDS, plain, strict=True))
    for command, answer in answers.items():
        check(command, answer)
        for stream in ("out", "err"):
            shown = answer[stream] if "FORCE_COLOR" not in surroundings else without_colour(answer[stream])
            assert without_times(shown) == without_times(before[command][stream]), command


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_characters_gets_others_in_columns(folder, plain, encoding):
    for command, answer, wide in zip(COMMANDS, printed(folder, COMMANDS, encoding=encoding), plain, strict=True):
        check(command, answer)
        if encoding == "ascii":
            assert (answer["out"] + answer["err"]).isascii(), command
        assert answer["out"].count("\n") == wide["out"].count("\n"), command
    (row,) = [line for line in printed(folder, ["list"], encoding="ascii")[0]["out"].splitlines() if "r2" in line]
    assert " -  " in row


def test_a_pipe_that_nobody_reads_ends_a_command_quietly(folder):
    for command, answer in zip([*COMMANDS, *HELP], printed(folder, [*COMMANDS, *HELP], cut=True), strict=True):
        check(command, answer, frozenset({*EXIT_CODE_MEANING, BROKEN_PIPE}))
        if answer["code"] == BROKEN_PIPE:
            assert answer["err"] == "", command


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")], ids=" ".join)
def test_a_closed_stream_changes_nothing_but_what_is_seen(folder, plain, closed):
    for command, answer, before in zip(COMMANDS, printed(folder, COMMANDS, closed=closed), plain, strict=True):
        check(command, answer)
        assert answer["code"] == before["code"], command


@pytest.mark.parametrize("columns", ["0", "40", "80"])
def test_the_help_is_readable_in_any_width(folder, columns):
    for command, answer in zip(HELP, printed(folder, HELP, COLUMNS=columns), strict=True):
        check(command, answer)
        assert "Usage:" in answer["out"], command
        assert columns == "0" or max(map(len, answer["out"].splitlines())) <= int(columns), command
