import io
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table
from support.hostile import FORBIDDEN, LINES, words

from trainer.observe import text


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_clean_text_has_every_word_and_no_control_character(line):
    shown = text.clean(line)
    assert not FORBIDDEN & set(shown)
    assert "\n" not in shown
    for word in words(line):
        assert word in shown


def test_control_characters_are_written_out():
    assert text.clean("a\x1b[2J\x9b\u202e\udcff") == "a\\x1b[2J\\x9b\\u202e\\udcff"


def test_line_breaks_and_tabs_become_spaces_in_a_line():
    assert text.clean("a\nb\rc\td") == "a b c d"


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_say_prints_text_as_it_is(line, capsys):
    text.say(line, style="red")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert not FORBIDDEN & set(printed)
    for word in words(line):
        assert word in printed


def test_say_keeps_lines_apart_and_long_lines_whole(capsys):
    text.say("one\n" + "x" * 300)
    assert capsys.readouterr().out == "one\n" + "x" * 300 + "\n"


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_cell_shows_text_as_it_is(line):
    out = io.StringIO()
    table = Table(box=None, show_header=False)
    table.add_row(text.cell(line))
    Console(file=out, width=300).print(table)
    for word in words(line):
        assert word in out.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_text_that_the_terminal_cannot_encode_is_written_out(encoding):
    code = "from trainer.observe import text; text.encode_safely(); text.say('90 % ✓ Größe'); print('–')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONIOENCODING": encoding, "PATH": ""}, check=True
    )
    assert b"90 % \\u2713 Gr" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (7.4, "7 s"), (59.4, "59 s"), (60, "1:00"), (187, "3:07"), (3753, "1:02:33")]
)
def test_durations_are_for_people(seconds, shown):
    assert text.duration(seconds) == shown


def test_counts_have_the_right_noun():
    assert [text.plural(count, "worker") for count in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]


def test_a_number_that_is_not_known_is_a_dash():
    assert (text.number(None, ".2f"), text.number(1.234, ".2f")) == ("–", "1.23")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.4, "0"), (812, "812"), (999.9, "1.0k"), (7449, "7.4k"), (35_404, "35k"), (1_234_567, "1.2M")],
)
def test_short_numbers_have_few_characters(value, shown):
    assert text.short(value) == shown


@pytest.mark.parametrize("at", [1e300, float("nan"), float("inf"), -1e300])
def test_a_time_that_is_none_is_shown_as_unknown(at):
    assert (text.clock(at), text.date(at)) == ("--:--:--", "–")
