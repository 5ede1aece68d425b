import json
from pathlib import Path

from trainer.cli.shown import place, show_result, show_scores
from trainer.storage.record import Record

SCORES = {"test_accuracy": 0.9025, "test_loss": 0.2871, "class_accuracy": {"T-shirt/top": 0.85, "[red]": 0.5}}
RESULT = {**SCORES, "status": "finished", "seconds": {"training": 6.0, "start_up": 2.0, "wall": 8.0}}


def test_scores_are_shown_in_total_and_by_class(capsys):
    show_scores(SCORES)
    printed = capsys.readouterr().out
    assert "Test accuracy 90.25%   test loss 0.2871" in printed
    assert "85.0%" in printed
    assert "[red]" in printed


def test_a_result_is_shown_with_its_time_and_its_places(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    show_result(Record(tmp_path / "runs" / "r1"), RESULT, as_json=False)
    printed = capsys.readouterr().out
    assert "8.0 s in total" in printed
    assert "75%" in printed
    assert printed.endswith("Record: runs/r1\nReport: runs/r1/report.html\n")


def test_a_result_in_json_is_one_line(capsys, tmp_path):
    show_result(Record(tmp_path / "r1"), RESULT, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"event": "result", **RESULT}


def test_places_in_the_working_folder_are_relative(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert place(str(tmp_path / "runs" / "r1")) == str(Path("runs", "r1"))
    assert place("/elsewhere/r1") == "/elsewhere/r1"
    assert place("s3://runs/r1") == "s3://runs/r1"


def test_a_result_with_prices_ends_with_its_cost(capsys, tmp_path):
    spent = {"total": 1.42, "productive": 1.27, "currency": "EUR"}
    show_result(Record(tmp_path), {**RESULT, "cost": spent}, as_json=False)
    assert "Cost: 1.42 EUR, of which 1.27 trained (89%)" in capsys.readouterr().out
    show_result(Record(tmp_path), RESULT, as_json=False)
    assert "Cost" not in capsys.readouterr().out
