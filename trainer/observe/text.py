"""Printing text that comes from elsewhere: from workers, buckets and clusters. It is data, whatever it looks like.

Every line that the trainer prints for people goes through `say`, and every cell of a table through `cell`. Rich's
markup is never interpreted: PyTorch's ordinary ``[/path/to/gloo/pair.cc:561]`` would be a closing tag. Control
characters are shown, not sent: a terminal obeys them.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
import unicodedata

from rich.console import Console
from rich.text import Text

# Cc: control (C0, DEL and C1), Cf: format (direction overrides, zero-width), Cs: surrogates, Co, Cn: nothing to show
# What we print ourselves, where an encoding has only ASCII: of one width, so that columns stay columns.
IN_ASCII = {"–": "-", "█": "#", "…": ".", "→": ">", "·": "|", "×": "x", "’": "'", "━": "-", "╸": "-", "╺": "-"}
MOST_SHOWN = 10_000  # characters of a line; what is longer was not written to be read
UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn"}


def cut(text: str) -> str:
    """Return a text without what is beyond MOST_SHOWN characters; then it says how many those are."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} … ({len(text):,} characters)"


def clean(text: object) -> str:
    """Return a text on one line, with every character that a terminal could obey written out, such as ``\\x1b``."""
    return "".join(_shown(character) for character in cut(str(text)))


def _shown(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character) in UNSHOWN:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def cell(text: object, style: str = "") -> Text:
    """Return a text as a cell of a Rich table."""
    return Text(clean(text), style=style)


def console(stderr: bool = False) -> Console:
    """Return a console that interprets no markup, emoji codes or numbers, and leaves long lines to the terminal."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: object, style: str | None = None, stderr: bool = False) -> None:
    """Print lines of text for a person."""
    lines = str(text).split("\n")
    console(stderr).print("\n".join(map(clean, lines)), style=style)


def encode_safely() -> None:
    """Let no character that the terminal's encoding lacks end the process: it is written in other characters."""
    codecs.register_error("trainer", _in_other_characters)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="trainer")


def _in_other_characters(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if set(lacking) <= set(IN_ASCII):
        return "".join(IN_ASCII[character] for character in lacking), error.end
    return codecs.backslashreplace_errors(error)


def open_closed_streams() -> None:
    """Give the process a stdout and stderr that lead nowhere where it was started without, as with ``>&-``."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.fstat(number)
        except OSError:  # else a child's output would end up in the next file that is opened
            os.dup2(null, number)
        setattr(sys, name, os.fdopen(null, "w"))


def is_terminal() -> bool:
    """Return whether stdout is a terminal in which lines can be changed."""
    return console().is_terminal and not console().is_dumb_terminal and sys.stdout.isatty()


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or – if there is none."""
    return "–" if value is None else format(value, form)


def short(value: float | None) -> str:
    """Return a number in few characters: 812, 7.4k, 35k, 1.2M."""
    if value is None:
        return "–"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.{1 if value < 9.95 * size else 0}f}{unit}"
    return f"{value:.0f}"


def clock(at: float) -> str:
    """Return seconds since 1970 as this machine's time of day."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # from elsewhere, and no time
        return "--:--:--"


def date(at: float | None) -> str:
    """Return seconds since 1970 as this machine's date and time, to the minute."""
    try:
        return "–" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return "–"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 worker, 2 workers."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float | None) -> str:
    """Return seconds for people: 7 s, 3:07, 1:02:33."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
