"""The commands for runs on a Kubernetes cluster: parse, call, print, exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.options import (
    Context,
    CpusPerWorker,
    Data,
    File,
    Format,
    Gpu,
    LogFormat,
    Namespace,
    Overrides,
    Recipe,
    Runs,
    Workers,
    as_overrides,
    run_name,
)
from trainer.errors import ExitCode
from trainer.observe.text import clean, say
from trainer.storage import store

if TYPE_CHECKING:
    from trainer.cluster.client import Outcome, Run
    from trainer.doctor.check import Check

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
# By default a run's record is not read, or where a run's pods keep it cannot be reached from here.
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where the run's record is, as seen from here, if its RayJob or log is gone: a folder, or s3://, gs:// or "
        "az://bucket/prefix.",
        envvar="TRAINER_STORAGE",
    ),
]
STYLES = {"ok": "green", "warning": "yellow", "wrong": "red"}


class Kind(str, Enum):
    """Which Ray cluster a run uses."""

    OWN = "own"
    STANDING = "standing"


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    for command in (submit, status, logs, stop, doctor):
        app.command()(command)
    app.command("list")(list_runs)


def submit(
    recipe: Recipe = None,
    file: File = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the recipe and the time.")] = None,
    workers: Workers = None,
    gpu: Gpu = None,
    cpus_per_worker: CpusPerWorker = None,
    cluster: Annotated[Kind, typer.Option(help="A Ray cluster of the run's own, or the standing one.")] = Kind.OWN,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = True,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
    log_format: Format = LogFormat.AUTO,
) -> None:
    """Train on a Kubernetes cluster: create a RayJob, follow it, and exit with its exit code.

    The same command again follows the same run.
    """
    from trainer.cluster import client

    run = client.submit(
        run_name(name, recipe),
        recipe=recipe,
        file=file,
        overrides=as_overrides(overrides, workers, gpu, cpus_per_worker),
        cluster=cluster.value,
        context=context,
        namespace=namespace,
        log=_note,
    )
    if log_format is not LogFormat.JSON:
        state = "submitted" if run.created else "exists already, with this config; joining it"
        say(f"Run {run.name} in {run.namespace} of {run.context}: {state}.")
    if wait:
        _follow(run, storage, log_format)
    else:
        say(_how_to_return(run.name))


def _follow(run: Run, storage: str | None, log_format: LogFormat) -> None:
    from trainer.cluster import client
    from trainer.observe import display

    shown = display.choose(log_format.value, run.config)
    try:
        ended = client.follow(run, shown, storage)
    except KeyboardInterrupt:
        shown.close()
        say(f"\nDetached; the run continues. {_how_to_return(run.name)}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    finally:
        shown.close()
    _show_end(run, ended, log_format)


def _how_to_return(run: str) -> str:
    return f"See it: trainer status {run}. Follow it: the same submit again. Stop it: trainer stop {run}."


def _show_end(run: Run, ended: Outcome, log_format: LogFormat) -> None:
    from trainer.cluster.status import numbers

    if log_format is LogFormat.JSON:
        typer.echo(json.dumps({"event": "result", **ended.as_result()}))
    if ended.status == "pending":
        _note(f"The RayJob stays: the same submit follows it again, `trainer stop {run.name}` ends it.")
    if ended.exit_code is not ExitCode.OK:
        raise ended.error()
    if log_format is not LogFormat.JSON:
        record = f"; its record is {run.record}" if run.record else ""
        say(f"{ended.problem}: {numbers(ended.result)}{record}.")


def status(
    run: RunName,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how a run on the cluster is getting on, what it waits for, and how it ended."""
    from trainer.cluster import client
    from trainer.cluster.status import numbers

    found = client.status_of(run, context=context, namespace=namespace, storage=storage).as_dict()
    if as_json:
        typer.echo(json.dumps(found))
        return
    result = found.pop("result", None)
    if result is not None:
        found["numbers"] = numbers(result)
    lines = [
        (key, value) for key, values in found.items() for value in (values if isinstance(values, list) else [values])
    ]
    _show_columns([(key.replace("_", " "), str(value)) for key, value in lines])


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Print the driver's log of a run on the cluster; of one whose RayJob is gone, its record's events and points."""
    from trainer.cluster import client

    for line in client.logs(run, follow=follow, context=context, namespace=namespace, storage=storage):
        say(line)


def stop(run: RunName, storage: Storage = None, context: Context = None, namespace: Namespace = None) -> None:
    """Stop a run on the cluster: its pods go, its record stays; submitted again, it resumes."""
    from trainer.cluster import client

    _note(f"Stopping {run}: signalling the driver and waiting for its pods to terminate.")
    record = client.stop(run, context=context, namespace=namespace, storage=storage).record
    say(f"Run {run} is stopped and its pods are gone; its record is kept. Submit it again to resume.")
    if record is not None:
        say(f"Its record {record.record}: {record.state}, epoch {record.progress.get('epoch', '–')}.")


def list_runs(
    storage: Annotated[
        str | None, typer.Option("--storage", help="List the runs kept there instead: s3://bucket/prefix, or a folder.")
    ] = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """List the runs of a namespace, or those of a storage: also the ones whose cluster is gone."""
    from trainer.cluster import client

    runs = client.list_runs(storage, context=context, namespace=namespace)
    if runs.note:
        _note(runs.note)
    if runs.rows:
        header = ("run", "state", "epoch", "accuracy", "ended")
        _show_columns([header, *((row.run, row.state, row.epoch, row.accuracy, row.ended) for row in runs.rows)])
    else:
        say("There are no runs.")


def doctor(
    of_cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Check a Kubernetes cluster too, from here and from a pod of each group."),
    ] = False,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Check every node of the Ray cluster of RAY_ADDRESS instead.")
    ] = False,
    runs: Runs = "runs",
    data: Data = None,
    context: Context = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each check.")] = False,
) -> None:
    """Check this machine, and a cluster, before a run: a line for each thing, with its fix where it is wrong."""
    from trainer.cluster.client import connect
    from trainer.doctor import kubernetes, machine, ray_nodes
    from trainer.doctor.check import worst

    place = store.normalise(runs)
    folder = data.expanduser().absolute() if data else None
    checks = ray_nodes.checks(place, folder) if nodes else machine.checks("here", place, folder)
    if of_cluster:
        checks += kubernetes.checks(connect(context, namespace), _note)
    code = worst(checks)
    if as_json:
        for check in checks:
            typer.echo(json.dumps({"event": "check", **check.as_dict()}))
        typer.echo(json.dumps({"event": "result", "status": "finished", "exit_code": int(code)}))
    else:
        _show_checks(checks)
    raise typer.Exit(code)


def _show_checks(checks: list[Check]) -> None:
    rows = [
        (check.state.value, check.where, check.what, f"{check.found} → {check.fix}" if check.fix else check.found)
        for check in checks
    ]
    _show_columns(rows, [STYLES[check.state.value] for check in checks])


def _show_columns(rows: Sequence[tuple[str, ...]], styles: Sequence[str] | None = None) -> None:
    """Print aligned columns, each row on one line, however long: a table would wrap and shorten cells."""
    cells = [[clean(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, style in zip(cells, styles or [""] * len(cells), strict=True):
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        say(line.rstrip(), style=style)


def _note(text: str) -> None:
    say(text, stderr=True)  # what is said while something takes time is not the answer
