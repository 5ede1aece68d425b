"""The commands for runs in a storage: evaluate, report, checkpoints, config."""

from __future__ import annotations

import json
import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from trainer import config, resolve
from trainer.cli.options import Context, Data, File, Namespace, Overrides, Recipe, Runs
from trainer.cli.shown import place, show_columns, show_scores
from trainer.cluster.api import NoKubeconfigError
from trainer.errors import CheckpointError, ConfigError, NoSuchRunError, TrainerError
from trainer.observe.text import say
from trainer.storage import checkpoints, seal, store
from trainer.storage.mirror import find_run, push
from trainer.storage.record import Record


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command()(evaluate)
    app.command()(report)
    app.command("checkpoints")(list_checkpoints)
    app.command("config")(show_config)


def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|FILE", help="A run's name or folder, or a safetensors file.")],
    recipe: Recipe = None,
    file: File = None,
    overrides: Overrides = None,
    runs: Runs = "runs",
    data: Data = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Shards of the test set; default: one per CPU core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test loss, accuracy and confusion matrix of a run's weights; a weights file needs --recipe or --config too."""
    from trainer.driver import evaluate as evaluation

    if Path(target).suffix == ".safetensors":
        if recipe is None and file is None:
            raise ConfigError(f"{target} holds weights without their network", "name it with --recipe or --config")
        weights, settings = store.normalise(target), resolve.load(recipe, file, overrides or [])
    else:
        if recipe or file or overrides:
            raise ConfigError(
                f"{target} is a run, whose config is in its record",
                "leave out --recipe, --config and --set: they are for a weights file",
            )
        record = find_run(target, store.normalise(runs))
        weights, settings = evaluation.weights_of(record), record.config()
    if not as_json:
        say("Starting Ray to score the test set.", stderr=True)  # it takes seconds
    scores, _ = evaluation.evaluate(weights, settings, data, tasks, (lambda _: None) if as_json else say)
    if as_json:
        typer.echo(json.dumps(scores.as_dict()))
    else:
        show_scores(scores.as_dict())


def report(
    targets: Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="Names or folders of runs.")] = None,
    every: Annotated[bool, typer.Option("--all", help="One page that lists all runs of the storage.")] = False,
    runs: Runs = "runs",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the page; default: the run's, comparison_A_B/ for several, report_A/ from a log."
        ),
    ] = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Make a run's report again from its record, compare several runs on one page, or list all of a storage on one.

    A run that is not in the storage is taken from the cluster, as far as its log has it.
    """
    from trainer.observe import page

    storage = store.normalise(runs)
    if every == bool(targets):
        raise ConfigError("report: give runs, or --all for a page of all of them", "trainer list names them")
    if every or targets is None:
        from trainer.cluster.records import rows
        from trainer.observe import index

        listed = [row.as_dict() for row in rows(storage)]
        say(f"Report: {place(index.write(listed, storage, output))}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        records = [_find(target, storage, Path(scratch), context, namespace) for target in targets]
        from_log = any(record.folder.parent == Path(scratch) for record in records)
        if len(records) > 1:
            beside = (Path() if store.is_remote(storage) else Path(storage)) / page.comparison_name(records)
            written = str(page.write_comparison(records, output or beside))
        elif output is not None or from_log:
            written = str(page.write(records[0], output or Path(f"report_{records[0].name}")))
        else:
            page.write(records[0])
            push(records[0])
            written = records[0].report
    say(f"Report: {place(written)}")


def _find(target: str, storage: str, scratch: Path, context: str | None, namespace: str | None) -> Record:
    """Return a run's record in a storage, or what the cluster's log has of it; damage is said."""
    from trainer.cluster import client

    try:
        record = find_run(target, storage)
    except NoSuchRunError as missing:
        try:
            record = client.record_from_log(target, scratch, context=context, namespace=namespace)
        except (NoKubeconfigError, ModuleNotFoundError):
            raise missing from None
        except TrainerError as error:
            raise NoSuchRunError(f"{missing.problem}; {error.problem}", error.fix) from None
        say(f"{target} is not in {place(storage)}: what the log on the cluster has of it is shown.", stderr=True)
        return record
    for name, damage in seal.verify(record).items():
        say(f"warning: {place(store.join(record.place, name))} {damage}", stderr=True)
    return record


class Action(str, Enum):
    """What to do with a run's checkpoints."""

    LS = "ls"
    VERIFY = "verify"
    PRUNE = "prune"


def list_checkpoints(
    action: Annotated[
        Action, typer.Argument(help="ls: list them; verify: read every byte; prune: delete the older ones.")
    ],
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder.")],
    runs: Runs = "runs",
    keep: Annotated[int, typer.Option(min=1, help="prune: how many of the newest to keep.")] = 3,
) -> None:
    """List, verify or prune the checkpoints of a run."""
    record = find_run(target, store.normalise(runs))
    if action is Action.PRUNE:
        deleted = checkpoints.prune_safely(record.place, keep)
        say(f"Deleted {', '.join(checkpoint.name for checkpoint in deleted) or 'none'}.")
        return
    verify = action is Action.VERIFY
    rows = checkpoints.described(record.place, verify)
    record_damage = seal.verify(record) if verify else {}
    table = [("checkpoint", "step", "attempt", "state", "")]
    for row in rows:
        best = "" if row.best_accuracy is None else f"best: {row.best_accuracy:.2%}"
        attempt = "–" if row.attempt is None else str(row.attempt)
        table.append((row.checkpoint.name, str(row.checkpoint.step), attempt, row.state, best))
    table += [(name, "–", "–", damage, "") for name, damage in record_damage.items()]
    if len(table) > 1:
        show_columns(table)
    else:
        say(f"{target} has no checkpoint.")
    damaged = [row.checkpoint.name for row in rows if row.damaged]
    if damaged:
        raise CheckpointError(f"{', '.join(damaged)}: damaged; a run that resumes takes the next older one")
    if record_damage:
        raise CheckpointError(
            f"{', '.join(record_damage)}: not as the run left it", "start the run again: it rebuilds what it can"
        )


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
