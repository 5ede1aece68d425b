"""`trainer train`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from trainer import resolve
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
    run_name,
)
from trainer.cli.shown import show_result
from trainer.config import from_mapping
from trainer.errors import ConfigError, ExitCode, TrainerError, error_facts
from trainer.observe.text import say
from trainer.storage import store

if TYPE_CHECKING:
    from trainer.driver.preflight import Plan


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
        str | None, typer.Option(metavar="NEW", help="Train NEW instead, starting from the run's checkpoint.")
    ] = None,
    from_checkpoint: Annotated[
        str | None, typer.Option("--from", help="With --fork: this checkpoint, or `best`; default: the newest.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")] = False,
) -> None:
    """Train a model, and leave a record and a report of it."""
    from trainer.driver import preflight

    error: Exception | None = None
    with _failure_in_json(log_format):
        given = as_overrides(overrides, workers, gpu, cpus_per_worker)
        merged = resolve.merge(recipe or resolve.DEFAULT_RECIPE, file, given)
        preflight.check_worker_count(merged)
        settings = from_mapping(merged)
        named = resolve.check_name(run_name(name, recipe))
        if from_checkpoint and not fork:
            raise ConfigError(f"--from: {from_checkpoint} has no fork to start from it", "name the new run with --fork")
        trained = resolve.check_name(fork) if fork else named
        plan = preflight.prepare(
            trained, settings, store.normalise(runs), data, named if fork else None, from_checkpoint
        )
        if plan.finished is not None:
            for damage in plan.damage:
                _note(f"warning: {damage}", log_format)
            _note(f"Run {trained} is finished already, with this config.", log_format)
            show_result(plan.record, plan.finished, as_json=log_format is LogFormat.JSON)
        elif dry_run:
            _dry_run(plan, log_format)
        else:
            error = _run(plan, log_format)
    if error is not None:  # the run has finished, and its result is printed
        raise error


def _run(plan: Plan, log_format: LogFormat) -> Exception | None:
    """Train, and print the result; return what went wrong after the run had finished, such as writing its report."""
    from trainer.driver import launch, ray_cluster
    from trainer.observe import display, metrics

    exporters = [] if ray_cluster.is_own() else [metrics.Exporter(plan.record, plan.config)]
    ended = launch.run(
        plan,
        lambda: [display.choose(log_format.value, plan.config), *exporters],
        lambda line: _note(line, log_format),
    )
    if ended.result["status"] != "finished":
        raise ended.error or TrainerError("The run did not finish, for an unknown reason", "report it")
    show_result(plan.record, ended.result, as_json=log_format is LogFormat.JSON)
    for exporter in exporters:
        exporter.wait_for_last_scrape()
    return ended.error


def _dry_run(plan: Plan, log_format: LogFormat) -> None:
    from trainer.driver import preflight
    from trainer.training import fetch

    fetch.find_dataset(plan.data_folder, lambda line: _note(line, log_format))
    for warning in [*plan.damage, *preflight.warnings(plan.config)]:
        _note(f"warning: {warning}", log_format)
    each = "CPU core" if plan.cpus_per_worker == 1 else "CPU cores"
    _note(
        f"Run {plan.record.name} can start: {plan.config.total_steps} steps, {plan.cpus_per_worker} {each} per worker.",
        log_format,
    )


@contextmanager
def _failure_in_json(log_format: LogFormat) -> Iterator[None]:
    """Let the last line of JSON be the result, of a failed run too: a program that reads it needs no exit code."""
    try:
        yield
    except Exception as error:
        if log_format is LogFormat.JSON:
            facts = error_facts(error)
            status = "interrupted" if facts["exit_code"] == ExitCode.INTERRUPTED else "failed"
            typer.echo(json.dumps({"event": "result", "status": status, **facts}))
        raise


def _note(sentence: str, log_format: LogFormat) -> None:
    if log_format is LogFormat.JSON:
        typer.echo(json.dumps({"time": round(time.time(), 3), "event": "message", "message": sentence}))
    else:
        say(sentence)
