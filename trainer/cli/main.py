"""The command line: parse, call, print, exit code. No logic."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trainer import __version__, config, resolve
from trainer.cli import cluster
from trainer.cli.checkpoints import checkpoints_command
from trainer.cli.options import (
    CpusPerWorker,
    Data,
    File,
    Format,
    Gpu,
    LogFormat,
    Overrides,
    Recipe,
    Runs,
    Workers,
    as_overrides,
)
from trainer.errors import ConfigError, ExitCode, StorageError, TrainerError
from trainer.storage import seal, store
from trainer.storage.checkpoints import WEIGHTS

app = typer.Typer(
    name="trainer",
    help="Train Fashion-MNIST with PyTorch on Ray: from a laptop to a cluster, with the same code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def train(
    recipe: Recipe = None,
    file: File = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the recipe and the time.")] = None,
    runs: Runs = "runs",
    data: Data = None,
    workers: Workers = None,
    gpu: Gpu = None,
    cpus_per_worker: CpusPerWorker = None,
    log_format: Format = LogFormat.AUTO,
    fork: Annotated[
        str | None, typer.Option(metavar="NEW", help="Train NEW instead, which begins with the run's checkpoint.")
    ] = None,
    from_checkpoint: Annotated[
        str | None, typer.Option("--from", help="--fork: with this checkpoint, or `best`; default: the newest.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")] = False,
) -> None:
    """Train a model, and leave a record and a report of it."""
    from trainer.driver import launch, preflight

    say = _say_json if log_format is LogFormat.JSON else _say
    with _failure_shown(log_format):
        given = as_overrides(overrides, workers, gpu, cpus_per_worker)
        settings = resolve.load(recipe or resolve.DEFAULT_RECIPE, file, given)
        run_name = resolve.check_name(name or f"{recipe or resolve.DEFAULT_RECIPE}-{time.strftime('%Y%m%d-%H%M%S')}")
        source, run_name = (run_name, resolve.check_name(fork)) if fork else (None, run_name)
        if from_checkpoint and not fork:
            raise ConfigError(f"--from: {from_checkpoint} is where a fork begins; name the new run by --fork.")
        plan = preflight.prepare(run_name, settings, store.normalise(runs), data, source, from_checkpoint)
    if plan.finished is not None:
        for damage in plan.damage:
            say(f"warning: {damage}")
        say(f"Run {run_name} is finished already, with this config.")
        _show_result(plan.record, plan.finished, log_format)
        return
    if dry_run:
        _dry_run(plan, say)
        return
    from trainer.observe import display, metrics

    exporters = [] if launch.is_own_cluster() else [metrics.Exporter(plan.record, settings)]
    with _failure_shown(log_format):
        result = launch.run(plan, lambda: [display.choose(log_format.value, settings), *exporters], say)
    try:
        shown = display.choose("json" if log_format is LogFormat.JSON else "plain", settings)
        with display.Follower(plan.record, shown):  # it may have to wait for the storage, and says so
            result = _with_report(plan.record, result)
    finally:  # also if there is no room for the report
        _show_result(plan.record, result, log_format)
    for exporter in exporters:
        exporter.wait_for_last_scrape()


@contextmanager
def _failure_shown(log_format: LogFormat) -> Iterator[None]:
    """The last line of the JSON is the result, of a run that failed as well: who reads it needs no exit code."""
    try:
        yield
    except TrainerError as error:
        if log_format is LogFormat.JSON:
            status = "interrupted" if error.exit_code is ExitCode.INTERRUPTED else "failed"
            shown = {"status": status, "exit_code": int(error.exit_code), "error": str(error)}
            typer.echo(json.dumps({"event": "result", **shown}))
        raise


def _dry_run(plan: Any, say: Any) -> None:
    from trainer.driver import preflight
    from trainer.training import fetch

    fetch.find(plan.data_folder, say)
    for warning in [*plan.damage, *preflight.warnings(plan.config)]:
        say(f"warning: {warning}")
    say(
        f"Run {plan.record.name} can start: {plan.config.total_steps} steps, {plan.cpus_per_worker} CPU cores a worker."
    )


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|FILE", help="A run's name or folder, or a safetensors file.")],
    recipe: Recipe = None,
    file: File = None,
    overrides: Overrides = None,
    runs: Runs = "runs",
    data: Data = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Shards of the test set; default: one a CPU core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test loss, accuracy and confusion matrix of a run's weights; a weights file needs --recipe or --config too."""
    from trainer.driver import launch

    weights, settings = _find_weights(target, recipe, file, overrides or [], runs)
    scores, _ = launch.evaluate(weights, settings, data, tasks, _say if not as_json else _quiet)
    if as_json:
        typer.echo(json.dumps(scores.as_dict()))
    else:
        _show_scores(scores.as_dict())


def _find_weights(
    target: str, recipe: str | None, file: Path | None, overrides: list[str], runs: str
) -> tuple[str, config.Config]:
    from trainer.storage.record import find

    if Path(target).suffix == ".safetensors":
        if recipe is None and file is None:
            raise ConfigError(f"{target} holds weights, not their network; say which by --recipe or --config.")
        return store.normalise(target), resolve.load(recipe, file, overrides)
    record = find(target, store.normalise(runs))
    if damage := seal.damage(record).get(WEIGHTS):
        raise StorageError(
            f"{record.weights} {damage}; the same `trainer train` makes it anew from the last checkpoint."
        )
    return record.weights, record.config()


@app.command()
def report(
    targets: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names or folders of runs.")],
    runs: Runs = "runs",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the page; default: the run's, for several comparison/.")
    ] = None,
) -> None:
    """Make a run's report again from its record, or compare several runs on one page."""
    from trainer.observe import page as pages
    from trainer.storage.record import find

    place = store.normalise(runs)
    records = [find(target, place) for target in targets]
    for record in records:
        for name, damage in seal.damage(record).items():
            typer.echo(f"warning: {_shown(store.join(record.place, name))} {damage}", err=True)
    if len(records) > 1:
        beside = Path("comparison") if store.is_remote(place) else Path(place) / "comparison"
        page = str(pages.write_comparison(records, output or beside))
    elif output is not None:
        page = str(pages.write(records[0], output))
    else:
        pages.write(records[0])
        records[0].push()
        page = records[0].report
    typer.echo(f"Report: {_shown(page)}")


app.command("checkpoints")(checkpoints_command)


@app.command("config")
def show_config(
    recipe: Recipe = None,
    file: File = None,
    overrides: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a config.")] = False,
) -> None:
    """Print the config a run would have, or the schema of all configs."""
    if schema:
        typer.echo(json.dumps(config.schema(), indent=2))
    else:
        typer.echo(resolve.load(recipe or resolve.DEFAULT_RECIPE, file, overrides or []).to_yaml(), nl=False)


cluster.register(app)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:  # noqa: D103 # the help text is the app's
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command; every ``TrainerError`` becomes its sentence on stderr and its exit code."""
    try:
        app(standalone_mode=True)
    except TrainerError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("Stopped.", ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 # the last resort: a bug must not look like a user's mistake
        with tempfile.NamedTemporaryFile("w", prefix="trainer-", suffix=".txt", delete=False) as out:
            traceback.print_exc(file=out)
        _fail(
            f"A bug in the trainer: {type(error).__name__}: {error}; its traceback is in {out.name}.", ExitCode.INTERNAL
        )


def _fail(sentence: str, code: ExitCode) -> None:
    sys.stdout.flush()
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"Error: {sentence}", markup=False, style="red")
    sys.stderr.flush()
    if code is ExitCode.INTERRUPTED:
        from trainer.storage.record import discard_scratch

        discard_scratch()
        os._exit(code)  # Ray's threads would keep the process for seconds more
    sys.exit(code)


def _say(sentence: str) -> None:
    typer.echo(sentence)


def _say_json(sentence: str) -> None:
    typer.echo(json.dumps({"time": round(time.time(), 3), "event": "message", "message": sentence}))


def _quiet(_: str) -> None:
    return


def _with_report(record: Any, result: dict[str, Any]) -> dict[str, Any]:
    from trainer.observe import page as pages
    from trainer.observe.summary import count_report
    from trainer.storage.mirror import Pusher

    pages.write(record)
    counted = count_report(record, result)
    seal.put_down(record)  # the result is another now
    Pusher(record).finish(max_outage_s=record.config().checkpoint.max_outage_s)
    return counted


def _show_result(record: Any, result: dict[str, Any], log_format: LogFormat) -> None:
    if log_format is LogFormat.JSON:
        typer.echo(json.dumps({"event": "result", **result}))
        return
    _show_scores(result)
    parts = result["seconds"]
    table = Table(title=f"{parts['wall']:.1f} s in all", title_justify="left", box=None, show_header=False)
    for part, seconds in parts.items():
        if part != "wall":
            table.add_row(part.replace("_", "-"), f"{seconds:.2f} s", f"{seconds / parts['wall']:.0%}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Record: {_shown(record.place)}", f"Report: {_shown(record.report)}", sep="\n", soft_wrap=True)


def _shown(place: str) -> str:
    return os.path.relpath(place) if place.startswith(f"{Path.cwd()}{os.sep}") else place


def _show_scores(scores: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"Test accuracy {scores['test_accuracy']:.2%}   test loss {scores['test_loss']:.4f}", style="bold")
    table = Table(box=None, show_header=False)
    for name, accuracy in scores["class_accuracy"].items():
        table.add_row(name, f"{accuracy:.1%}", "█" * round(accuracy * 30))
    console.print(table)
