"""Reports: pages and pictures made of small records; their numbers are made up, their files are real."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from trainer import resolve
from trainer.config import CLASSES, Config
from trainer.errors import StorageError
from trainer.observe import goodput, page, plots
from trainer.storage import folder, layout
from trainer.storage.record import Record

pytestmark = pytest.mark.server

BEGAN = 1_700_000_000.0
CONFUSION = [[90 if i == j else (10 if j == (i + 1) % 10 else 0) for j in range(10)] for i in range(10)]
PIXELS = base64.b64encode(bytes(i % 256 for i in range(784))).decode()
MISTAKE = {"index": 7, "label": "Coat", "prediction": "Ankle boot", "confidence": 0.8765, "pixels": PIXELS}
SECONDS = {"start_up": 2.0, "data": 1.0, "training": 31.5, "evaluation": 4.0, "shutdown": 0.5, "wall": 39.0}


def make(folder: Path, config: Config | None = None) -> Record:
    record = Record(folder)
    record.create(config or Config(), {"torch": "9.8.7", "git_commit": None, "memory_bytes": 3 * 2**30})
    add_line(record.file(layout.EVENTS), time=BEGAN + 1, event="run_started", pid=1, host="here", process_created=BEGAN)
    return record


def add_line(file: Path, **line: Any) -> None:
    with file.open("a") as out:
        out.write(json.dumps(line) + "\n")


def add_attempt(record: Record, attempt: int = 1, losses: tuple[float, ...] = (2.0, 1.0), epochs: int = 2) -> None:
    """Training that starts 100 s after the one before: two reports an epoch, and its test."""
    at = BEGAN + 100 * attempt
    add_line(record.file(layout.EVENTS), time=at, event="training_started", attempt=attempt, started_at=at,
             device="cpu", workers=3, precision="fp32")  # fmt: skip
    for epoch in range(1, epochs + 1):
        common = {"attempt": attempt, "workers": 3, "epoch": epoch, "learning_rate": 0.1 / epoch}
        for i, loss in enumerate(losses):
            step = 10 * (epoch * len(losses) + i)
            add_line(record.file(layout.METRICS), time=at + step, step=step, train_loss=loss, samples=500, seconds=2.0,
                     samples_per_second=250.0, **common)  # fmt: skip
        add_line(record.file(layout.METRICS), time=at + step + 1, step=step, train_loss=None, samples=0, seconds=0.001,
                 samples_per_second=0.0, test_loss=0.5 / epoch, test_accuracy=0.7 + 0.0123 * epoch + 0.1 * attempt,
                 evaluation_seconds=1.0, **common)  # fmt: skip


def finish(record: Record, status: str = "finished", error: str | None = None, **more: Any) -> Record:
    record.write_result({"name": record.name, "status": status, "seconds": SECONDS} | more
                        | ({"error": error} if error else {}))  # fmt: skip
    return record


@pytest.fixture
def finished(tmp_path: Path) -> Record:
    record = make(tmp_path / "run-1")
    add_attempt(record)
    record.write_evaluation({"confusion": CONFUSION, "mistakes": [MISTAKE] * 25})
    return finish(record)


class Page(HTMLParser):
    """The text a reader sees, and what the page refers to; fails on tags that are not closed."""

    def __init__(self, file: Path):
        super().__init__()
        self.html = file.read_text()
        self.pieces: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(self.html)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.references += [value or "" for key, value in attributes if key in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data.strip())


def picture(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")[..., :3]


def share(pixels: np.ndarray, colour: str) -> float:
    """The share of a picture that is exactly of this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float(np.mean(np.all((255 * pixels).round() == wanted, axis=-1)))


def test_the_page_of_a_finished_run_has_its_numbers(finished: Record) -> None:
    html = Page(page.write(finished))
    assert finished.file(layout.REPORT).exists()
    for number in (
        "82.46%",  # test accuracy of the last epoch
        "0.2500",  # its loss
        "39.0 s",  # wall
        "Samples per second 250",
        "1.5000",  # train loss of an epoch: the mean of 2 and 1
        "2 of 4",  # epochs
        "31.5 s 80.8%",  # training, and its share
        "Coat → Ankle boot 87.6%",
        "torch 9.8.7",
        "memory 3.0 GiB",
        "git commit none",
        "hidden 512, 512",
        "trainer report run-1",
    ):
        assert number in html.text, number
    assert "Workers 3" in html.text
    assert "finished" in html.text
    assert "no result yet" not in html.text


def test_events_have_times_since_the_start(finished: Record) -> None:
    add_line(finished.file(layout.EVENTS), time=BEGAN + 3723, event="worker_failed", rank=1, error="it broke")
    text = Page(page.write(finished)).text
    assert "1.00 s run started" in text
    assert "process created +0.0 s" in text
    assert "1:40 training started" in text
    assert "started at +100.0 s" in text
    assert "1:02:03 worker failed rank 1 error it broke" in text


def test_only_the_newest_of_many_events_are_shown(finished: Record) -> None:
    for i in range(page.EVENTS_SHOWN):
        add_line(finished.file(layout.EVENTS), time=BEGAN + i, event=f"happening {i}")
    text = Page(page.write(finished)).text
    assert "The first 2 events are left out" in text
    assert "run started" not in text
    assert "happening 199" in text


def test_the_page_needs_nothing_else(finished: Record) -> None:
    html = Page(page.write(finished))
    assert len(html.references) > len(plots.RUN_PICTURES)
    assert all(reference.startswith("data:") for reference in html.references)
    assert "url(" not in html.html
    assert "@import" not in html.html
    assert not {"script", "iframe", "object", "embed"} & set(html.tags)
    assert "prefers-color-scheme: dark" in html.html
    assert 'name="viewport"' in html.html


def test_every_picture_is_written_and_embedded(finished: Record) -> None:
    html = Page(page.write(finished))
    embedded = [base64.b64decode(each.partition(",")[2]) for each in html.references if "image/png" in each]
    assert {file.stem for file in finished.file(layout.PLOTS).iterdir()} == set(plots.RUN_PICTURES)
    for name in plots.RUN_PICTURES:
        png = (finished.file(layout.PLOTS) / f"{name}.png").read_bytes()
        assert min(picture(png).shape[:2]) > 200, name
        assert name == "mistakes" or png in embedded, name  # the page has these as tiles
    assert len([png for png in embedded if picture(png).shape == (28, 28, 3)]) == 25


def test_every_picture_shows_its_numbers(finished: Record) -> None:
    page.write(finished)
    shown = {file.stem: picture(file.read_bytes()) for file in finished.file(layout.PLOTS).iterdir()}
    for name, colour in [
        ("loss", plots.BLUE),
        ("loss", plots.VERMILION),
        ("accuracy", plots.VERMILION),
        ("learning_rate", plots.BLUE),
        ("speed", plots.BLUE),
    ]:
        assert share(shown[name], colour) > 0.001, f"{name} has no {colour} curve"
    assert share(shown["classes"], plots.BLUE) > 0.2  # bars of 90 %
    assert 0.03 < np.mean(shown["confusion"][..., 2] - shown["confusion"][..., 0] > 0.3) < 0.1  # a diagonal, blue
    assert 0.03 < np.mean(shown["confusion"][..., 0] - shown["confusion"][..., 2] > 0.3) < 0.1  # mistakes, orange
    assert np.mean((shown["mistakes"] > 0.1) & (shown["mistakes"] < 0.8)) > 0.25  # the images' own greys
    # training and evaluation took 31.5 and 4 s
    parts = [share(shown["time"], plots.PART_COLOURS[part]) for part in ("training", "evaluation")]
    assert parts[0] / parts[1] == pytest.approx(31.5 / 4, rel=0.1)


def test_a_tile_has_the_pixels_of_its_image() -> None:
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    assert np.allclose(picture(plots.tile(image))[..., 0], 1 - image / 255, atol=0.01)


def test_the_confusion_picture_depends_on_the_counts() -> None:
    evaluation = {"confusion": CONFUSION, "class_accuracy": {CLASSES[0]: 0.9}, "mistakes": []}
    transposed = {**evaluation, "confusion": np.transpose(CONFUSION).tolist()}
    first, second = (plots.of_run([], each, None)["confusion"] for each in (evaluation, transposed))
    assert first != second


def test_a_run_that_just_started_says_what_is_missing(tmp_path: Path) -> None:
    text = Page(page.write(make(tmp_path / "new"))).text
    assert "no result yet" in text
    assert "still running, or its process was killed" in text
    assert "14 November 2023, 22:13 UTC" in text  # its last sign of life
    assert "There are no curves: the run reported no numbers yet." in text
    assert "There is no evaluation" in text
    assert "Where the time went is known when the run has ended." in text
    assert "Test accuracy –" in text
    assert not list((tmp_path / "new" / "plots").iterdir())


def test_a_run_that_is_going_on_shows_what_there_is(tmp_path: Path) -> None:
    record = make(tmp_path / "going")
    add_attempt(record, epochs=1)
    with record.file(layout.METRICS).open("a") as out:
        out.write('{"time": 17000')  # the writer is in the middle of it
    text = Page(page.write(record)).text
    assert "no result yet" in text
    assert "81.23%" in text
    assert "Wall time so far 2:11" in text
    assert (record.file(layout.PLOTS) / "accuracy.png").exists()


def test_a_bare_folder_with_a_config_has_a_page(tmp_path: Path) -> None:
    record = make(tmp_path / "bare")
    record.file(layout.ENVIRONMENT).unlink()
    record.file(layout.EVENTS).unlink()
    text = Page(page.write(record)).text
    assert "The record has no environment.json" in text
    assert "No event is recorded yet." in text


def test_a_failed_run_says_why_at_the_top_and_is_escaped(tmp_path: Path) -> None:
    record = finish(make(tmp_path / "bad"), "failed", "<script>alert(1)</script> & 'more'")
    add_line(record.file(layout.EVENTS), time=BEGAN, event="<b>worker_failed", error="<i>")
    html = Page(page.write(record))
    assert "<script" not in html.html
    assert "<b>worker" not in html.html
    assert "<i>" not in html.html
    assert "Why it failed <script>alert(1)</script> & 'more' Test accuracy" in html.text
    assert "There are no curves: the run reported no numbers." in html.text


def test_an_interrupted_run_has_a_page(tmp_path: Path) -> None:
    record = make(tmp_path / "stopped")
    add_attempt(record, epochs=1)
    text = Page(page.write(finish(record, "interrupted", "Stopped before the end."))).text
    assert "Why it ended Stopped before the end." in text
    assert "which this run has not finished." in text


def test_curves_show_what_was_done_again_once_and_the_page_says_so(tmp_path: Path) -> None:
    record = make(tmp_path / "again")
    add_attempt(record, 1, losses=(9.0, 9.0))
    add_attempt(record, 2, losses=(2.0, 1.0))
    text = Page(page.write(record)).text
    assert "There were 2 attempts; steps that were done again are shown once." in text
    assert "92.46%" in text
    assert "82.46%" not in text
    alone = make(tmp_path / "alone")
    add_attempt(alone, 2, losses=(2.0, 1.0))
    page.write(alone)
    for name in ("loss", "accuracy", "speed"):
        assert (record.file(layout.PLOTS) / f"{name}.png").read_bytes() == (
            alone.file(layout.PLOTS) / f"{name}.png"
        ).read_bytes()


def test_one_attempt_is_not_worth_a_word(finished: Record) -> None:
    assert "attempts" not in Page(page.write(finished)).text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_no_numbers_leave_a_gap(tmp_path: Path, bad: float) -> None:
    record = make(tmp_path / "diverged")
    add_attempt(record, losses=(1.0, bad, 2.0))
    text = Page(page.write(record)).text
    assert ("not a number" if math.isnan(bad) else "infinite") in text
    assert picture((record.file(layout.PLOTS) / "loss.png").read_bytes()).std() > 0.03


def test_only_bad_losses_and_no_test_are_said_in_sentences(tmp_path: Path) -> None:
    record = make(tmp_path / "diverged")
    add_line(record.file(layout.METRICS), time=BEGAN, attempt=1, workers=1, epoch=1, step=1, learning_rate=0.1,
             samples=1, train_loss=math.nan, seconds=1.0, samples_per_second=1.0)  # fmt: skip
    text = Page(page.write(finish(record, "failed", "Diverged."))).text
    assert "There is no loss curve: no reported loss is a number." in text
    assert "There is no test accuracy: no epoch came to its end." in text
    assert not (record.file(layout.PLOTS) / "loss.png").exists()


def test_the_record_alone_gives_the_same_page_again(finished: Record) -> None:
    page.write(finished)
    first = [
        finished.file(layout.REPORT).read_bytes(),
        *(f.read_bytes() for f in sorted(finished.file(layout.PLOTS).iterdir())),
    ]
    finished.file(layout.REPORT).unlink()
    for file in finished.file(layout.PLOTS).iterdir():
        file.unlink()
    finished.file(layout.PLOTS).rmdir()
    page.write(finished)
    assert first == [
        finished.file(layout.REPORT).read_bytes(),
        *(f.read_bytes() for f in sorted(finished.file(layout.PLOTS).iterdir())),
    ]


def test_pictures_of_an_earlier_attempt_do_not_stay(finished: Record) -> None:
    page.write(finished)
    (finished.file(layout.PLOTS) / "mine.png").touch()
    finished.file(layout.EVALUATION).unlink()
    page.write(finished)
    names = {file.stem for file in finished.file(layout.PLOTS).iterdir()}
    assert not {"confusion", "classes", "mistakes"} & names
    assert "mine" in names  # what is not ours is not touched


def test_nothing_half_written_stays_or_is_seen(finished: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    page.write(finished)
    before = finished.file(layout.REPORT).read_bytes()

    def full_disk(descriptor: int, content: bytes) -> None:
        os.write(descriptor, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_fill", full_disk)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)"):
        page.write(finished)
    assert finished.file(layout.REPORT).read_bytes() == before
    assert not list(finished.folder.rglob(".*"))


def test_a_run_without_mistakes_has_a_page(finished: Record) -> None:
    finished.write_evaluation({"confusion": np.diag([100] * 10).tolist(), "mistakes": []})
    assert "There is no mistake to show." in Page(page.write(finished)).text


def test_settings_that_differ_from_the_recipe_stand_out(tmp_path: Path) -> None:
    config = resolve.load("accurate", None, ["seed=12345", "optimizer.lr=0.3"])
    html = page.write(make(tmp_path / "set", config))
    rows = re.findall(r'<tr class="set"><td>(\w+)</td><td>([^<]*)</td>', html.read_text())
    assert rows == [("seed", "12345"), ("lr", "0.3")]
    text = Page(html).text
    assert "Recipe: accurate. Bold : differs from it." in text
    assert "blocks [32], [64], [128, 128]" in text


def test_a_list_that_is_empty_is_none_and_not_nothing() -> None:
    assert [page.setting(each) for each in ([], "", [[8], [16, 32]], (1, 2))] == [
        "none",
        "none",
        "[8], [16, 32]",
        "1, 2",
    ]


ACCOUNT = dict.fromkeys(goodput.PARTS, 0.0) | {"productive": 60.0, "recovery": 40.0, "wall": 100.0, "goodput": 0.6}


def test_a_resumed_run_has_one_wall_time_over_all_its_attempts(tmp_path: Path) -> None:
    record = make(tmp_path / "resumed")
    add_attempt(record, 1)
    add_attempt(record, 2)
    finish(record, attempt=2, goodput=ACCOUNT)
    text = Page(page.write(record)).text
    assert "Wall time 1:40" in text
    assert "productive 60.0 s 60.0%" in text
    assert "recovery 40.0 s 40.0%" in text
    assert re.search(r"wall 1:40 from the run's first start to its end.*, over all 2 attempts", text)
    assert "Goodput: 60.0% of the 1:40 was productive training." in text
    assert "39.0 s" not in text  # of the last process alone


def test_an_interrupted_run_is_stopped_as_in_the_list(tmp_path: Path) -> None:
    html = page.write(finish(make(tmp_path / "r1"), "interrupted", "Stopped."))
    assert '<span class="badge stopped">stopped</span>' in html.read_text()


def test_a_page_says_how_to_make_it_again_from_anywhere(finished: Record, tmp_path: Path) -> None:
    assert f"trainer report run-1 --storage {tmp_path}" in Page(page.write(finished)).text
    other = make(tmp_path / "b" / "run-2")
    text = Page(page.write_comparison([finished, other], tmp_path / "two of them")).text
    places = f"{tmp_path}/run-1 {tmp_path}/b/run-2"
    assert f"trainer report {places} --output '{tmp_path}/two of them'" in text


def test_a_comparison_links_to_the_pages_of_its_runs(finished: Record, tmp_path: Path) -> None:
    page.write(finished)
    other = make(tmp_path / "no-page")
    html = Page(page.write_comparison([finished, other], tmp_path / "both"))
    assert [each for each in html.references if not each.startswith("data:")] == ["../run-1/report.html"]


def test_each_comparison_has_a_folder_of_its_own_that_no_run_can_have(tmp_path: Path) -> None:
    runs = [Record(tmp_path / name) for name in ("a", "b", "c")]
    names = [page.comparison_name(some) for some in (runs[:2], runs[1:], runs)]
    assert names == ["comparison_a_b", "comparison_b_c", "comparison_a_b_c"]
    assert not any(resolve.RUN_NAME.fullmatch(name) for name in names)
    many = [Record(tmp_path / f"{'x' * 30}-{number}") for number in range(20)]
    assert len(page.comparison_name(many)) < 60
    assert page.comparison_name(many) != page.comparison_name(many[1:] + many[:1])


def test_a_run_on_validation_samples_says_so(tmp_path: Path) -> None:
    config = Config.model_validate({"data": {"validation_samples": 5000}})
    text = Page(page.write(make(tmp_path / "choosing", config))).text
    assert "tested on the 5000 images cut off the training set, not on the test set" in text


POINT = {"time": 1.0, "attempt": 1, "workers": 1, "epoch": 1, "step": 7, "learning_rate": 0.1, "train_loss": 1.0}
POINT |= {"samples": 5, "seconds": 1.0, "samples_per_second": 5.0, "test_loss": 1.0, "test_accuracy": 0.5}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.jsonl", "{no json\n"),
        ("metrics.jsonl", '{"attempt": 1}\n'),
        ("metrics.jsonl", json.dumps(POINT).replace('"train_loss"', '"train_lose"') + "\n"),
        ("metrics.jsonl", json.dumps(POINT | {"step": "7"}) + "\n"),
        ("events.jsonl", "[1, 2]\n"),
        ("events.jsonl", '{"event": "run_started", "process_created": 1.0}\n'),
        ("evaluation.json", '{"confusion": [[1, 2], [3, 4]], "mistakes": []}'),
        ("evaluation.json", json.dumps({"confusion": CONFUSION, "mistakes": [MISTAKE | {"pixels": "AAAA"}]})),
        ("evaluation.json", json.dumps({"confusion": CONFUSION, "mistakes": [MISTAKE | {"pixels": "no base64!"}]})),
        ("result.json", "{"),
    ],
)
def test_a_damaged_record_is_a_sentence(finished: Record, file: str, content: str) -> None:
    (finished.folder / file).write_text(content)
    with pytest.raises(StorageError, match="damaged"):
        page.write(finished)


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="it is not a run"):
        page.write(Record(tmp_path))


def test_importing_the_report_is_cheap() -> None:
    script = "import sys, trainer.observe.page; print(sorted({'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_comparison_shows_each_run_and_only_the_settings_that_differ(tmp_path: Path) -> None:
    records = [make(tmp_path / f"run-{seed}", Config(seed=seed, epochs=seed + 5)) for seed in (1, 2)]
    add_attempt(records[0], epochs=2)
    add_attempt(records[1], 2, losses=(2.5, 1.5), epochs=3)
    finish(records[0])
    file = page.write_comparison(records, tmp_path / "both")
    html = Page(file)
    assert file == tmp_path / "both" / "comparison.html"
    assert "run-1 finished 82.46% 0.2500 39.0 s 31.5 s 250 2 of 6 3" in html.text
    assert "run-2 no result yet 93.69% 0.1667 4:31 – 250 3 of 7 3" in html.text
    assert "Setting run-1 run-2 seed 1 2 epochs 6 7 Curves" in html.text
    assert "global_batch_size" not in html.text
    assert "trainer report run-1 run-2" in html.text
    assert re.findall(r'class="n best">([^<]*)', html.html) == ["93.69%"]
    assert all(reference.startswith("data:") for reference in html.references)
    for name in plots.COMPARISON_PICTURES:
        png = (file.parent / f"{name}.png").read_bytes()
        # more than the legend's line, so that each curve is there
        assert min(share(picture(png), colour) for colour in plots.COLOURS[:2]) > 0.001, name
        assert f"data:image/png;base64,{base64.b64encode(png).decode()}" in html.references


def test_a_comparison_of_like_runs_without_numbers(tmp_path: Path) -> None:
    records = [make(tmp_path / "a" / "same"), make(tmp_path / "b" / "same"), make(tmp_path / "c")]
    text = Page(page.write_comparison(records, tmp_path / "all")).text
    assert "None: all of them have the same settings." in text
    assert "same (1) reported no numbers" in text
    assert "same (2) reported no numbers" in text
    assert "No run came to the end of an epoch" in text


def test_a_comparison_that_cannot_be_written_is_a_sentence(finished: Record, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        page.write_comparison([finished, finished], tmp_path / "file" / "folder")


def test_runs_of_a_comparison_look_different() -> None:
    assert len({plots.look(index) for index in range(28)}) == 28


def test_times_and_numbers_for_people() -> None:
    assert [page.seconds(each) for each in (None, 0.034, 6.234, 38.61, 386.4, 3753.2)] == [
        "–",
        "0.03 s",
        "6.23 s",
        "38.6 s",
        "6:26",
        "1:02:33",
    ]
    assert page.number(math.nan, ".2%") == "not a number"


def test_the_page_does_not_change_when_it_is_made_again(finished: Record) -> None:
    before = page.write(finished).read_bytes()
    finished.add_event({"event": "report_written", "seconds": 1.5})  # as a run does after its report
    assert page.write(finished).read_bytes() == before


COST = {
    "currency": "EUR",
    "total": 1.42,
    "productive": 1.27,
    "parts": {"productive": 1.27, "other": 0.15},
    "per_epoch": 0.71,
    "per_hour": 0.0,
    "pods": [{"pod": "r1-cpu-7", "group": "cpu", "begins": BEGAN, "ends": BEGAN + 90, "per_hour": 0.7, "cost": 1.42}],
    "sources": {"cpu": "a price list, 2026-11"},
}


def test_the_page_of_a_run_on_a_cluster_has_its_machines_and_its_cost(tmp_path: Path) -> None:
    record = make(tmp_path / "r1")
    add_attempt(record)
    pod = {
        "pod": "r1-cpu-7",
        "group": "cpu",
        "spot": True,
        "node": "node-9",
        "instance_type": "m5.large",
        "zone": "eu-1a",
    }
    started = {
        "attempt": 2,
        "started_at": BEGAN + 300,
        "workers": 1,
        "device": "cpu",
        "precision": "fp32",
        "pods": [pod],
    }
    add_line(record.file(layout.EVENTS), time=BEGAN + 300, event="training_started", **started)
    node = {"node": "n1", "alive": True, "pod": "r1-cpu-7", "group": "cpu", "spot": True}
    record.add_node({"time": BEGAN + 60, **node})
    record.add_node({"time": BEGAN + 130, **node, "alive": False, "reason": "node was drained"})
    for at in (70, 85):
        record.add_usage({"time": BEGAN + at, "node": "n1", "cpu": 0.5, "memory_bytes": 2**30})
    finish(record, cost=COST)
    text = Page(page.write(record)).text
    assert "1.42 EUR, of which 1.27 trained (89%); 0.71 an epoch" in text
    assert "r1-cpu-7 cpu node-9 m5.large eu-1a yes 60.0 s 2:10 node was drained" in text
    assert "a price list, 2026-11" in text
    drawn = {file.stem for file in record.file(layout.PLOTS).iterdir()}
    assert {"cpu", "memory"} <= drawn
    assert not {"gpu", "network"} & drawn  # nobody measured them


def test_a_run_without_machines_or_prices_shows_neither(finished: Record) -> None:
    text = Page(page.write(finished)).text
    assert "What it cost" not in text
    assert "Nothing was measured" in text
