"""The commands for runs on a Kubernetes cluster: parse, call, print, exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli import again
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
    seconds_of,
)
from trainer.cli.shown import place, show_columns
from trainer.errors import ConfigError, ExitCode, InterruptedRunError, TrainerError
from trainer.observe.text import date, duration, number, say
from trainer.storage import store

if TYPE_CHECKING:
    from trainer.cluster.client import Outcome, Run, RunRow, RunStatus
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
STALE_S = 30.0  # from when on the age of a number is shown
STYLES = {"ok": "green", "warning": "yellow", "wrong": "red"}


class Kind(str, Enum):
    """Which Ray cluster a run uses."""

    OWN = "own"
    STANDING = "standing"


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    for command in (submit, status, logs, stop, bundle, doctor):
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and ask the cluster; create nothing.")
    ] = False,
) -> None:
    """Train on a Kubernetes cluster: create a RayJob, follow it, and exit with its exit code.

    The same command with the same --name follows the same run.
    """
    from trainer.cluster import client

    named = run_name(name, recipe)
    try:
        run = client.submit(
            named,
            recipe=recipe,
            file=file,
            overrides=as_overrides(overrides, workers, gpu, cpus_per_worker),
            cluster=cluster.value,
            context=context,
            namespace=namespace,
            log=_note,
            dry_run=dry_run,
        )
    except KeyboardInterrupt:
        stopped = InterruptedRunError(f"Stopped while {named} was being submitted")
        stopped.then = f"See whether it was: {again.command('status', named, context=context, namespace=namespace)}"
        raise stopped from None
    where = f"{run.namespace} of {run.context}"
    if dry_run:
        can = "can be submitted" if run.created else "is there already, with this config"
        say(f"Run {run.name} {can}: {where}, {run.config.total_steps} steps, workers: {run.config.workers}.")
        return
    again_line = again.on_cluster(
        run,
        "submit",
        name=run.name,
        recipe=recipe,
        **again.settings(file, overrides, workers, gpu, cpus_per_worker),
        cluster=None if cluster is Kind.OWN else cluster.value,
        storage=storage,
    )
    if log_format is not LogFormat.JSON:
        say(f"Run {run.name} in {where}: {_joined(run)}.")
    if wait:
        _follow(run, storage, log_format, again_line)
    elif log_format is not LogFormat.JSON:
        say(_how_to_return(run, again_line))


def _joined(run: Run) -> str:
    if run.created:
        return "submitted"
    if run.has_finished:
        return "has finished already, with this config"
    return "exists already, with this config; joining it"


def _follow(run: Run, storage: str | None, log_format: LogFormat, again_line: str) -> None:
    from trainer.cluster import client
    from trainer.observe import display

    shown = display.choose(log_format.value, run.config)
    try:
        ended = client.follow(run, shown, storage)
    except KeyboardInterrupt:
        shown.close()
        _note("\nDetached; the run continues.")
        _note(_how_to_return(run, again_line))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except TrainerError as error:
        error.then = _how_to_return(run, again_line)
        raise
    finally:
        shown.close()
    _show_end(run, ended, log_format, again_line)


def _how_to_return(run: Run, again_line: str) -> str:
    see, stop = (again.on_cluster(run, word, run.name) for word in ("status", "stop"))
    return f"See it:    {see}\nFollow it: {again_line}\nStop it:   {stop}"


def _show_end(run: Run, ended: Outcome, log_format: LogFormat, again_line: str) -> None:
    from trainer.cluster.status import numbers

    if log_format is LogFormat.JSON:
        typer.echo(json.dumps({"event": "result", **ended.as_result()}))
    if ended.exit_code is not ExitCode.OK:
        error = ended.error()
        stop_line = again.on_cluster(run, "stop", run.name)
        pending = f"Its RayJob stays.\nFollow it: {again_line}\nStop it:   {stop_line}"
        error.then = pending if ended.status == "pending" else again.hint(error, again_line)
        raise error
    if log_format is not LogFormat.JSON:
        record = f"; its record is {run.record}" if run.record else ""
        say(f"{ended.problem}: {numbers(ended.result)}{record}.")


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run's name; without it, all runs are listed.")
    ] = None,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the progress of a run, what it waits for, and how it ended."""
    from trainer.cluster import client

    if run is None:
        list_runs(storage, context, namespace, as_json)
        return
    found = client.status_of(run, context=context, namespace=namespace, storage=storage)
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        show_columns(_status_rows(found))


def _status_rows(found: RunStatus) -> list[tuple[str, str]]:
    from trainer.cluster.status import numbers

    progress = found.progress
    rows = [
        ("run", found.run),
        ("state", found.state),
        ("epoch", _of(progress.get("epoch"), progress.get("epochs"))),
        ("step", _of(progress.get("step"), progress.get("steps"))),
        ("loss", number(progress.get("train_loss"), ".4f")),
        ("test accuracy", number(progress.get("test_accuracy"), ".2%")),
        ("samples/s", number(progress.get("samples_per_second"), ",.0f")),
        ("ETA", duration(progress.get("seconds_left")) if found.exit_code is None else "–"),
        ("ray cluster", found.ray_cluster or "–"),
        ("submitted by", found.submitted_by or "–"),
        ("submitted at", found.submitted_at or "–"),
        ("record", found.record or "–"),
        ("exit code", number(found.exit_code, "d")),
        ("ended", found.ended or "–"),
        ("numbers", "–" if found.result is None else numbers(found.result)),
        *(("now", message) for message in found.now),
    ]
    return [row for row in rows if row[1] != "–"]


def _of(done: float | None, total: float | None) -> str:
    return "–" if done is None else f"{done:.0f}" if total is None else f"{done:.0f}/{total:.0f}"


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines, this many.")] = None,
    since: Annotated[str | None, typer.Option(help="Only lines of the last 30s, 5m, 2h or 1d.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="As it was printed, JSON included.")] = False,
    worker: Annotated[
        int | None, typer.Option(min=0, help="Instead, what worker N (from 0) printed, as it is kept in the storage.")
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(min=1, help="Of this attempt, what --worker or the driver printed; default: the newest."),
    ] = None,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Print the log of a run on the cluster, as submit shows it; of one whose RayJob is gone, by its record."""
    from trainer.cluster import client

    if worker is not None or attempt is not None:
        for option, given in (("--follow", follow), ("--since", since is not None), ("--raw", raw)):
            if given:
                raise ConfigError(
                    f"{option}: what a process printed is kept as plain lines without times", f"leave {option} out"
                )
        printed = client.output(
            run, worker=worker, attempt=attempt, context=context, namespace=namespace, storage=storage
        )
        for line in printed if tail is None else printed[max(0, len(printed) - tail) :]:
            say(line)
        return
    since_s = None if since is None else seconds_of(since)
    lines = client.logs(
        run,
        follow=follow,
        raw=raw,
        tail=tail,
        since_s=since_s,
        context=context,
        namespace=namespace,
        storage=storage,
    )
    for line in lines:
        say(line)


def stop(
    run: RunName,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until its pods are gone.")] = True,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Stop a run on the cluster: its pods go, its record stays; submitted again, it resumes."""
    from trainer.cluster import client

    stopped = client.stop(run, wait=wait, context=context, namespace=namespace, storage=storage, log=_note)
    if stopped.ended is not None:
        was = {"finished": "has finished", "failed": "has failed"}.get(stopped.ended.status, "is stopped already")
        say(f"{run} {was}; nothing to stop.")
        return
    pods = "its pods are gone" if wait else "its pods are ending"
    kept = "Its record is kept." if stopped.had_started else "It had not started training."
    say(f"Run {run} is stopped, and {pods}. {kept}")
    if not stopped.listed:
        _note("It is not listed any more: a RayJob that stands for it could not be created.")
    if stopped.record is not None:
        progress = stopped.record.progress
        at = _of(progress.get("epoch"), progress.get("epochs"))
        say(f"Its record {stopped.record.record}: {stopped.record.state}, epoch {at}.")
    if stopped.submitted_with:
        say(f"To continue it: {again.on_cluster(stopped, 'submit', *stopped.submitted_with)}")


def bundle(
    run: RunName,
    output: Annotated[Path | None, typer.Option(help="File to write; default: RUN.tar.gz.")] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Add half an hour of metrics from there, as make prometheus opens it."),
    ] = None,
    storage: Storage = None,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Write all that is known of a run to one file for a bug report, without secrets, weights and checkpoints."""
    from trainer.cluster import client

    file = output or Path(f"{run}.tar.gz")
    names = client.bundle(run, file, prometheus=prometheus, context=context, namespace=namespace, storage=storage)
    say(f"{file}: {len(names)} files; README.txt in it says what it lacks. Read it before you share it.")


def list_runs(
    storage: Annotated[
        str | None, typer.Option("--storage", help="List only the runs kept there: s3://bucket/prefix, or a folder.")
    ] = None,
    context: Context = None,
    namespace: Namespace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs of this machine's storage and of the current cluster, or only those of the one that is named."""
    from trainer.cluster import client

    runs = client.list_runs(storage, context=context, namespace=namespace)
    if runs.note:
        _note(runs.note)
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in runs.rows]))
    elif runs.rows:
        show_columns(_list_rows(runs.rows))
    else:
        say("There are no runs.")
    if runs.missing is not None:
        raise runs.missing


def _list_rows(runs: Sequence[RunRow]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("run", "state", "epoch", "accuracy", "started", "where")]
    for row in runs:
        age = time.time() - row.seen_at if row.seen_at and row.state == "running" else 0.0
        stale = f" ({duration(age)} ago)" if age >= STALE_S else ""
        rows.append(
            (
                row.run,
                row.state,
                _of(row.epoch, row.epochs) + stale,
                number(row.test_accuracy, ".2%"),
                date(row.started_at),
                place(row.where),
            )
        )
    several = len({row.where for row in runs}) > 1
    return rows if several else [row[:-1] for row in rows]


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
    show_columns(rows, [STYLES[check.state.value] for check in checks])


def _note(text: str) -> None:
    say(text, stderr=True)  # what is said while something takes time is not the answer
