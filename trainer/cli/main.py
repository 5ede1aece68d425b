"""The command `trainer`: its subcommands, and how each error becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from trainer import __version__
from trainer.cli import cluster, runs
from trainer.cli.train import fork, train
from trainer.driver import interrupts
from trainer.errors import ExitCode, TrainerError
from trainer.observe.text import encode_safely, open_closed_streams, say
from trainer.storage import store

EXTRAS = {
    **dict.fromkeys(("ray", "torch", "safetensors", "numpy"), "train"),
    **dict.fromkeys(("matplotlib", "jinja2"), "report"),
    "kubernetes": "cluster",
}

BROKEN_PIPE = 141  # as shells show a process that SIGPIPE ended

app = typer.Typer(
    name="trainer",
    help="Train Fashion-MNIST with PyTorch on Ray: from a laptop to a cluster, with the same code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(fork)
runs.register(app)
cluster.register(app)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:  # noqa: D103 # the help text is the app's
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command; every ``TrainerError`` becomes its sentence on stderr and its exit code."""
    open_closed_streams()
    encode_safely()
    if "PYTHONWARNINGS" in os.environ:
        warnings.simplefilter("ignore")  # `error` is meant for a user's own code: Ray's would not start
    if not os.environ.get("COLUMNS", "1").strip("0").isdigit():
        del os.environ["COLUMNS"]  # 0, as where nobody knows the width: Rich would print nothing
    try:
        with interrupts.bounded():
            _run()
    except BrokenPipeError:  # the reader has closed the pipe, as in `trainer list | head -1`
        _leave_quietly()


def _run() -> None:
    try:
        try:
            app(standalone_mode=True)
        finally:
            for warning in store.take_passed_over():
                say(f"warning: {warning}", stderr=True)
        sys.stdout.flush()  # here, where a pipe that is gone can still be met with calm
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes it an exit code of its own
            raise BrokenPipeError from None
        sys.stdout.flush()
        raise
    except BrokenPipeError:
        raise
    except TrainerError as error:
        _fail(str(error), error.exit_code, error.then)
    except KeyboardInterrupt:
        _fail("Stopped.", ExitCode.INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            _fail_with_bug(error)
        extra = f"pip install 'fashion-mnist-on-ray[{EXTRAS[package]}]'"
        _fail(f"{package} is not installed, and this command needs it; {extra}.", ExitCode.CONFIG)
    except Exception as error:  # noqa: BLE001 # the last resort: a bug must not look like a user's mistake
        _fail_with_bug(error)


def _leave_quietly() -> NoReturn:
    """End as a process does that SIGPIPE ends, without Python's complaint about what it could not write."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(null, stream.fileno())
    sys.exit(BROKEN_PIPE)


def _fail_with_bug(error: Exception) -> NoReturn:
    with tempfile.NamedTemporaryFile("w", prefix="trainer-", suffix=".txt", delete=False) as out:
        traceback.print_exception(error, file=out)
    _fail(f"A bug in the trainer: {type(error).__name__}: {error}; its traceback is in {out.name}.", ExitCode.INTERNAL)


def _fail(sentence: str, code: ExitCode, then: str = "") -> NoReturn:
    sys.stdout.flush()
    if code is ExitCode.INTERRUPTED:  # as somebody wished
        say(sentence, stderr=True)
    else:
        say(f"Error: {sentence}", style="red", stderr=True)
    if then:
        say(then, stderr=True)
    sys.stderr.flush()
    if code is ExitCode.INTERRUPTED:
        from trainer.storage.mirror import discard_scratch

        discard_scratch()
        os._exit(code)  # Ray's threads would keep the process for seconds more
    sys.exit(code)
