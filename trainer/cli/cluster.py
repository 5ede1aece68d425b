"""The commands for runs on a Kubernetes cluster: parse, call, print, exit code. No logic."""

from __future__ import annotations

import json
import time
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trainer import resolve
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
)
from trainer.errors import ExitCode
from trainer.storage import store

if TYPE_CHECKING:
    from trainer.cluster.api import Cluster, Object
    from trainer.cluster.outcome import Outcome
    from trainer.config import Config
    from trainer.doctor.machine import Check

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


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
    context: Context = None,
    namespace: Namespace = None,
    log_format: Format = LogFormat.AUTO,
) -> None:
    """Train on a Kubernetes cluster: make a RayJob, follow it, and end as it ends. Again: follow the same run."""
    from trainer.cluster import rayjob
    from trainer.cluster import submit as submitting

    given = as_overrides(overrides, workers, gpu, cpus_per_worker)
    run = name or f"{recipe or resolve.DEFAULT_RECIPE}-{time.strftime('%Y%m%d-%H%M%S')}"
    rayjob.check_name(run)  # before the cluster is asked anything
    there = _cluster(context, namespace)
    done = submitting.submit(there, run, cluster.value, recipe, file, given, _aside)
    if log_format is not LogFormat.JSON:
        begun = "submitted" if done.made else "is there already, with this config; following it"
        typer.echo(f"Run {run} in {there.namespace} of {there.context}: {begun}.")
    if wait:
        _follow(there, done.job, done.config, log_format)
    else:
        typer.echo(_how_to_come_back(run))


def _follow(cluster: Cluster, job: Object, config: Config, log_format: LogFormat) -> None:
    from trainer.cluster.follow import Watch
    from trainer.observe import display

    shown = display.choose(log_format.value, config)
    try:
        ended = Watch(cluster, job, config, shown).until_end()
    except KeyboardInterrupt:
        shown.close()
        typer.echo(f"\nDetached; the run goes on. {_how_to_come_back(job['metadata']['name'])}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BaseException:
        shown.close()
        raise
    shown.close()
    _show_end(ended, job, log_format)


def _how_to_come_back(run: str) -> str:
    return f"See it: trainer status {run}. Follow it: the same submit again. End it: trainer stop {run}."


def _show_end(ended: Outcome, job: Object, log_format: LogFormat) -> None:
    from trainer.cluster import rayjob
    from trainer.cluster.outcome import as_result

    if log_format is LogFormat.JSON:
        typer.echo(json.dumps({"event": "result", **as_result(ended)}))
    if ended.code is not ExitCode.OK:
        raise ended.error()
    if log_format is not LogFormat.JSON:
        kept = rayjob.storage_of(job)
        place = f"; its record is {store.join(kept, job['metadata']['name'])}" if kept else ""
        typer.echo(f"{ended.sentence[:-1]}: {_numbers(ended.result)}{place}.")


def _numbers(result: dict[str, Any] | None) -> str:
    if not result or result.get("test_accuracy") is None:
        return "its numbers are in the record"
    wall = f", {result['seconds']['wall']:.1f} s in all" if "seconds" in result else ""
    return f"test accuracy {result['test_accuracy']:.2%}, test loss {result['test_loss']:.4f}{wall}"


def status(
    run: Run,
    context: Context = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How a run on the cluster gets on, what holds it up, and how it ended."""
    from trainer.cluster import status as runs_on_cluster

    found = runs_on_cluster.look(_cluster(context, namespace), run)
    if as_json:
        typer.echo(json.dumps(found))
        return
    if result := found.pop("result", None):
        found["numbers"] = _numbers(result)
    table = Table(box=None, show_header=False)
    for key, value in found.items():
        for each in value if isinstance(value, list) else [value]:
            table.add_row(key.replace("_", " "), str(each))
    Console(highlight=False, soft_wrap=True).print(table)


def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """The driver's log of a run on the cluster."""
    from trainer.cluster import status as runs_on_cluster

    for line in runs_on_cluster.log(_cluster(context, namespace), run, follow):
        typer.echo(line)


def stop(run: Run, context: Context = None, namespace: Namespace = None) -> None:
    """Stop a run on the cluster: its pods go, its record stays; submitted again, it continues."""
    from trainer.cluster import submit as submitting

    _aside(f"Stopping {run}: its driver is told, and its pods are waited for.")
    submitting.stop(_cluster(context, namespace), run)
    typer.echo(f"Run {run} is stopped and its pods are gone; its record stays, and submitting it again continues it.")


def list_runs(
    place: Annotated[
        str | None, typer.Option("--storage", help="List the runs kept there instead: s3://bucket/prefix, or a folder.")
    ] = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """The runs of a namespace, or those of a storage: also the ones whose cluster is gone."""
    from trainer.cluster import status as runs_on_cluster

    of_storage = place is not None
    found = (
        runs_on_cluster.kept(store.normalise(place or ""))
        if of_storage
        else runs_on_cluster.on_cluster(_cluster(context, namespace))
    )
    table = Table("run", "state", "epoch", "accuracy", "ended", box=None)
    for row in found:
        table.add_row(*row)
    Console(highlight=False).print(table if found else "There are no runs.")


def doctor(
    of_cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Look at a Kubernetes cluster too, from here and from a pod of each group."),
    ] = False,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Look at every node of the Ray cluster of RAY_ADDRESS.")
    ] = False,
    runs: Runs = "runs",
    data: Data = None,
    context: Context = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each check.")] = False,
) -> None:
    """Check this machine, and a cluster, before a run: a line for each thing, with its fix where it is wrong."""
    from trainer.doctor import kubernetes as looking
    from trainer.doctor import machine

    place, folder = store.normalise(runs), data.expanduser().absolute() if data else None
    found = looking.on_nodes(place, folder) if nodes else machine.here("here", place, folder)
    if of_cluster:
        found += looking.of_cluster(_cluster(context, namespace), _aside)
    code = looking.worst(found)
    if as_json:
        for each in found:
            typer.echo(json.dumps({"event": "check", **each.as_dict()}))
        typer.echo(json.dumps({"event": "result", "status": "finished", "exit_code": int(code)}))
    else:
        _show_checks(found)
    raise typer.Exit(code)


def _show_checks(found: list[Check]) -> None:
    styles = {"ok": "green", "warning": "yellow", "wrong": "red"}
    console = Console(highlight=False, soft_wrap=True)  # a line for each, however long
    widths = [max(len(each.where) for each in found), max(len(each.what) for each in found)]
    for each in found:
        fix = f" → {each.fix}" if each.fix else ""
        line = f"{each.state.value:7}  {each.where:{widths[0]}}  {each.what:{widths[1]}}  {each.found}{fix}"
        console.print(line, style=styles[each.state.value], markup=False)


def _aside(text: str) -> None:
    typer.echo(text, err=True)  # what is said while something takes its time is not the answer


def _cluster(context: str | None, namespace: str | None) -> Cluster:
    from trainer.cluster.api import Cluster

    return Cluster(context, namespace)
