"""Whatever a storage holds: each command that prints or draws it ends with a documented exit code, and obeys nothing.

The record of a real run is spoilt file by file. That a terminal and a browser have nothing to obey is asserted of all.
"""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support import hostile

from trainer.cli import main
from trainer.doctor import machine
from trainer.driver import evaluate
from trainer.errors import CheckpointError, ExitCode
from trainer.storage import store
from trainer.storage.manifest import seal
from trainer.training import fetch

FIXTURE = Path(__file__).parents[2] / "fixtures" / "0.1.0" / "finished"
CHECKPOINT = "checkpoints/step-00000040-0001"
FILES = [
    "result.json",
    "environment.json",
    "evaluation.json",
    "events.jsonl",
    "metrics.jsonl",
    "nodes.jsonl",
    "resources.jsonl",
    "config.yaml",
    "MANIFEST.json",
    "checkpoints/best.json",
    "checkpoints/left-out.json",
    f"{CHECKPOINT}/MANIFEST.json",
    f"{CHECKPOINT}/QUARANTINED.json",
    "lease/000001.json",
    "lease/000001.alive",
    "logs/attempt-1/driver.log",
]
COMMANDS = [
    ["list", "--storage", "runs"],
    ["list", "--storage", "runs", "--json"],
    ["status", "r1", "--storage", "runs"],
    ["logs", "r1", "--storage", "runs"],
    ["logs", "r1", "--storage", "runs", "--attempt", "1"],
    ["checkpoints", "ls", "r1"],
    ["checkpoints", "verify", "r1"],
    ["fork", "r1", "r2", "--dry-run"],
    ["evaluate", "r1"],
    ["train", "--name", "r1", "--dry-run"],
]
DRAWING = [["report", "r1", "--output", "out"], ["report", "--all"], ["report", "r1", "r0", "--output", "both"]]
DRAWN = ("result.json", "environment.json", "evaluation.json", "events.jsonl", "metrics.jsonl")


@pytest.fixture
def trainer(tmp_path, monkeypatch, capfd):
    """Call a command in a folder with the run r1, which is spoilt, and r0, which is not; returns code and output."""
    for name in ("r0", "r1"):
        shutil.copytree(FIXTURE, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("TRAINER_STORAGE", raising=False)
    monkeypatch.setattr(fetch, "find_dataset", lambda *_: tmp_path)
    monkeypatch.setattr(machine, "checks", lambda *_: [])
    monkeypatch.setattr(evaluate, "evaluate", _not_scored)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["trainer", *words])
        try:
            main.main()
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err

    return run


def _not_scored(*_):
    raise CheckpointError("no weights")


def check(command, code, out, err):
    assert code in set(ExitCode) - {ExitCode.INTERNAL}, (command, out[-500:], err[-1500:])
    assert "Traceback" not in out + err, (command, err[-1500:])
    obeyed = {character for character in out + err if character in hostile.FORBIDDEN}
    assert not obeyed, (command, obeyed)
    assert len(out + err) < 100_000


ALWAYS = ("deep object", "wrong types", "terminal")  # the others take minutes


@pytest.mark.parametrize(
    "kinds", [ALWAYS, pytest.param(tuple(set(hostile.JSON) - set(ALWAYS)), marks=pytest.mark.slow)], ids=["few", "all"]
)
@pytest.mark.parametrize("file", FILES)
def test_no_command_fails_with_a_bug_whatever_a_file_holds(trainer, tmp_path, file, kinds):
    place = tmp_path / "runs" / "r1" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        for command in COMMANDS:
            place.write_bytes(hostile.JSON[kind] + b"\n")
            check(command, *trainer(*command))
    code, out, _ = trainer("list", "--storage", "runs")
    assert code == ExitCode.OK
    assert "r0" in out  # the others are listed all the same


@pytest.mark.parametrize("file", DRAWN)
@pytest.mark.parametrize("command", DRAWING, ids=lambda command: " ".join(command[:2]))
def test_no_page_fails_with_a_bug_whatever_a_file_holds(trainer, tmp_path, file, command):
    place = tmp_path / "runs" / "r1" / file
    for name in ("deep object", "huge exponent", "lone surrogates"):
        place.write_bytes(hostile.JSON[name] + b"\n")
        check(command, *trainer(*command))


class Elements(HTMLParser):
    """The elements of a page, and what of it a browser would run."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.handlers, self.links, self.images = 0, [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.links += [value for name, value in attributes if name == "href"]
        self.images += [value for name, value in attributes if name == "src"]


def spoil(run, text, number):
    """Put a text, and a number, in the place of each in the record of a run, where the page can still be drawn."""
    kept = {"event", "status", "pixels"}
    for name in DRAWN:
        lines = []
        for line in (run / name).read_text().splitlines() if name.endswith("l") else [(run / name).read_text()]:
            content = json.loads(line)
            spoilt = hostile.put_instead(content, text, number) if number is not None else _only_text(content, text)
            lines.append({key: content[key] if key in kept else value for key, value in spoilt.items()})
        (run / name).write_text("\n".join(map(json.dumps, lines)) + "\n")


def _only_text(content, text):
    if isinstance(content, dict):
        return {key: value if key == "pixels" else _only_text(value, text) for key, value in content.items()}
    if isinstance(content, list):
        return [_only_text(value, text) for value in content]
    return text if isinstance(content, str) else content


@pytest.mark.parametrize("text", hostile.HTML, ids=ascii)
def test_no_text_of_a_record_is_obeyed_by_a_browser(trainer, tmp_path, text):
    spoil(tmp_path / "runs" / "r1", text, None)
    for command, page in zip(DRAWING, ("out/report.html", "runs/index.html", "both/comparison.html"), strict=True):
        code, out, err = trainer(*command)
        check(command, code, out, err)
        assert code == ExitCode.OK, err
        content = (tmp_path / page).read_text()
        found = Elements(content)
        assert found.scripts == (1 if page.endswith("index.html") else 0)  # our own, which sorts
        assert found.handlers == []
        assert [link for link in found.links if re.match(r"\s*(javascript|data:text)", link)] == []
        assert all(image.startswith("data:image/png") for image in found.images)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e308, 1e308, 10**400, 0, -1], ids=str)
def test_no_number_of_a_record_is_a_bug_of_the_page(trainer, tmp_path, number):
    spoil(tmp_path / "runs" / "r1", "text", number)
    for command in [*DRAWING, *COMMANDS]:
        check(command, *trainer(*command))


def test_a_text_of_fifty_megabytes_is_cut_wherever_it_is_shown(trainer, tmp_path):
    run = tmp_path / "runs" / "r1"
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "status": "failed", "error": "x" * 50_000_000}))
    with (run / "events.jsonl").open("a") as events:
        events.write(json.dumps({"event": "warning", "time": 1.0, "message": "x" * 50_000_000}) + "\n")
    for command in [COMMANDS[0], COMMANDS[2], DRAWING[0], DRAWING[1]]:
        check(command, *trainer(*command))
    assert (tmp_path / "out" / "report.html").stat().st_size < 5_000_000


def test_a_sealed_manifest_that_lies_is_damage_for_every_command(trainer, tmp_path):
    facts = {"size": 1, "sha256": "0"}
    lies = {"format": 1, "files": {"../../../etc/passwd": facts, "\x1b[2J": facts}}
    for place in ("MANIFEST.json", f"{CHECKPOINT}/MANIFEST.json"):
        store.write(str(tmp_path / "runs" / "r1" / place), seal(lies))
    for command in COMMANDS:
        check(command, *trainer(*command))
    code, out, _ = trainer("checkpoints", "verify", "r1")
    assert code == ExitCode.CHECKPOINT
    assert "step-00000040-0001" in out
