"""`trainer train` and `trainer fork`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer import resolve
from trainer.cli import again
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
from trainer.cli.shown import place, show_result
from trainer.config import differences, from_mapping
from trainer.driver import interrupts
from trainer.errors import ExitCode, InterruptedRunError, TrainerError, error_facts
from trainer.observe.text import say
from trainer.storage import store
from trainer.storage.mirror import find_run

if TYPE_CHECKING:
    from trainer.driver.preflight import Plan


Name = Annotated[str | None, typer.Option(help="The run's name; default: the recipe and the time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")]


def train(
    recipe: Recipe = None,
    file: File = None,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = again.DEFAULT_STORAGE,
    data: Data = None,
    workers: Workers = None,
    gpu: Gpu = None,
    cpus_per_worker: CpusPerWorker = None,
    log_format: Format = LogFormat.AUTO,
    dry_run: DryRun = False,
) -> None:
    """Train a model, and leave a record and a report of it. The same command with the same --name resumes."""
    from trainer.driver import preflight

    def planned() -> tuple[Plan, str]:
        merged = resolve.merge(
            recipe or resolve.DEFAULT_RECIPE, file, as_overrides(overrides, workers, gpu, cpus_per_worker)
        )
        preflight.check_worker_count(merged)
        settings = from_mapping(merged)
        named = resolve.check_name(run_name(name, recipe))
        words = again.command(
            "train",
            name=named,
            recipe=recipe,
            **again.settings(file, overrides, workers, gpu, cpus_per_worker),
            storage=again.storage_option(runs),
            data=data,
        )
        return preflight.prepare(named, settings, store.normalise(runs), data), words

    _start(planned, log_format, dry_run)


def fork(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The run to start from: its name or folder.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new run's name.")],
    file: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings over the source's.")] = None,
    overrides: Overrides = None,
    from_checkpoint: Annotated[
        str | None, typer.Option("--from", help="Start from this checkpoint, or `best`; default: the newest.")
    ] = None,
    runs: Runs = again.DEFAULT_STORAGE,
    data: Data = None,
    workers: Workers = None,
    gpu: Gpu = None,
    cpus_per_worker: CpusPerWorker = None,
    log_format: Format = LogFormat.AUTO,
    dry_run: DryRun = False,
) -> None:
    """Train a new run from another run's checkpoint, with that run's settings and what is changed here."""
    from trainer.driver import preflight

    def planned() -> tuple[Plan, str]:
        named = resolve.check_name(new)
        storage = store.normalise(runs)
        given = as_overrides(overrides, workers, gpu, cpus_per_worker)
        resolve.merge(None, file, given)  # a mistake in these is said first
        original = find_run(source, storage)
        before = original.config()
        merged = resolve.merge(None, file, given, base=before.to_yaml())
        preflight.check_worker_count(merged)
        settings = from_mapping(merged)
        words = again.command(
            "fork",
            source,
            named,
            **again.settings(file, overrides, workers, gpu, cpus_per_worker),
            **{"from": from_checkpoint},
            storage=again.storage_option(runs),
            data=data,
        )
        plan = preflight.prepare(named, settings, storage, data, original, from_checkpoint)
        if plan.fork is not None:
            changed = "; ".join(differences(before, settings)) or "none"
            _note(f"Fork of {original.name} at {plan.fork.checkpoint.name}. Changed settings: {changed}.", log_format)
        return plan, words

    _start(planned, log_format, dry_run)


def _start(planned: Callable[[], tuple[Plan, str]], log_format: LogFormat, dry_run: bool) -> None:
    """Check a run, and train it; `planned` returns it with the command that continues it."""
    error: Exception | None = None
    with _failure_in_json(log_format):
        plan, words = planned()
        run = plan.record.name
        if plan.finished is not None:
            for damage in plan.damage:
                _note(f"warning: {damage}", log_format)
            _note(f"Run {run} is finished already, with this config.", log_format)
            show_result(plan.record, plan.finished, as_json=log_format is LogFormat.JSON)
        elif dry_run:
            _dry_run(plan, log_format)
        else:
            _note(f"Run {run}: {place(plan.record.place)}", log_format)
            with _continued_by(words):
                error = _run(plan, log_format)
    if error is not None:  # the run has finished, and its result is printed
        raise error


@contextmanager
def _continued_by(words: str) -> Iterator[None]:
    """Let whatever ends a run early end with the command that continues it."""
    try:
        yield
    except TrainerError as error:
        error.then = again.hint(error, words)
        raise
    except KeyboardInterrupt:  # before training, or while its end was written
        stopped = interrupts.reason() or InterruptedRunError("Stopped; the record so far is kept")
        stopped.then = again.hint(stopped, words)
        raise stopped from None
    except BrokenPipeError:  # nobody reads what it prints, and it may well have finished
        raise
    except Exception:
        say(f"To continue it: {words}", stderr=True)
        raise


def _run(plan: Plan, log_format: LogFormat) -> Exception | None:
    """Train, and print the result; return what went wrong after the run had finished, such as writing its report."""
    from trainer.driver import launch, ray_cluster
    from trainer.observe import display, metrics
    from trainer.training import pod

    exporters = [] if ray_cluster.is_own() else [metrics.Exporter(plan.record, plan.config, pod.image())]
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
