import re

import pytest

from trainer.observe import index

ROW = dict.fromkeys((key for _, key, _ in index.COLUMNS)) | {"record": None, "currency": None}
DONE = {**ROW, "run": "b", "state": "finished", "test_accuracy": 0.9, "epoch": 4, "started_at": 1.7e9, "wall_s": 61.5}
PAID = {**DONE, "run": "a", "cost": 1.5, "currency": "EUR", "goodput": 0.75, "record": "/runs/a"}
FAILED = {**ROW, "run": "<c>", "state": "failed"}


@pytest.fixture
def page(tmp_path):
    def write(*rows, folder=None):
        return index.write(list(rows), str(tmp_path), folder), (tmp_path / "index.html").read_text()

    return write


def test_every_run_is_a_row_with_its_numbers_and_its_page(page, tmp_path):
    where, html = page(DONE, PAID, FAILED)
    assert where == str(tmp_path / "index.html")
    cells = [re.sub(r"<[^>]+>", "", row).split("\n") for row in html.split("<tr>")[2:]]
    shown = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert shown[1][:5] == ["a", "finished", "90.00%", "4", "14 November 2023, 22:13 UTC"]
    assert {"75%", "1.50 EUR"} <= set(shown[1])
    assert shown[2][:2] == ["&lt;c&gt;", "failed"]
    assert re.findall(r'href="([^"]+report.html)"', html) == ["b/report.html", "a/report.html"]


def test_a_column_that_no_run_has_is_left_out(page):
    _, html = page(DONE)
    assert ("Cost" in html, "Goodput" in html, "Test accuracy" in html) == (False, False, True)


def test_elsewhere_links_lead_to_the_folders_of_the_runs(page, tmp_path):
    _, html = page(PAID, {**PAID, "record": "s3://bucket/a"}, folder=tmp_path)
    assert re.findall(r'href="([^"]+report.html)"', html) == ["file:///runs/a/report.html"]


def test_the_only_script_is_the_one_that_the_page_allows(page):
    _, html = page(DONE)
    (allowed,) = re.findall(r"script-src 'sha256-([^']+)'", html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    import base64
    import hashlib

    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed
