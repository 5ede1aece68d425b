"""`trainer checkpoints`: list, verify or prune the checkpoints of a run."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from trainer.cli.options import Runs
from trainer.errors import CheckpointError
from trainer.storage import checkpoints, seal, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.record import find


class Deed(str, Enum):
    """What to do with a run's checkpoints."""

    LS = "ls"
    VERIFY = "verify"
    PRUNE = "prune"


def checkpoints_command(
    deed: Annotated[Deed, typer.Argument(help="ls: list them; verify: read every byte; prune: delete the older ones.")],
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder.")],
    runs: Runs = "runs",
    keep: Annotated[int, typer.Option(min=1, help="prune: how many of the newest stay.")] = 3,
) -> None:
    """List, verify or prune the checkpoints of a run."""
    record = find(target, store.normalise(runs))
    place = record.place
    best = checkpoints.best(place)
    if deed is Deed.PRUNE:
        gone = checkpoints.prune(place, keep, {each.step for each in _not_to_lose(place)})
        typer.echo(f"Deleted {', '.join(each.name for each in gone) or 'none'}.")
        return
    found = checkpoints.look(place)
    states = dict.fromkeys(found.committed, "committed")
    states |= dict.fromkeys(found.quarantined, "damaged, put aside") | dict.fromkeys(found.unfinished, "unfinished")
    if deed is Deed.VERIFY:
        states |= {each: checkpoints.verdict(place, each) for each in found.committed}
    table = Table("checkpoint", "step", "attempt", "state", "", box=None)
    for each in sorted(states, reverse=True):
        mark = f"best: {best.test_accuracy:.2%}" if best and each.step == best.step else ""
        attempt = checkpoints.attempt(place, each)
        table.add_row(each.name, str(each.step), "–" if attempt is None else str(attempt), states[each], mark)
    of_record = seal.damage(record) if deed is Deed.VERIFY else {}
    for name, damage in of_record.items():
        table.add_row(name, "–", "–", damage, "")
    Console(highlight=False).print(table if table.rows else f"{target} has no checkpoint.")
    damaged = [each.name for each in found.committed if deed is Deed.VERIFY and states[each] != checkpoints.INTACT]
    if damaged:
        raise CheckpointError(f"{', '.join(damaged)}: damaged; a run that continues takes the next older one.")
    if of_record:
        raise CheckpointError(
            f"{', '.join(of_record)}: not as the run left it; start the run again to see what it can mend."
        )


def _not_to_lose(place: str) -> list[Checkpoint]:
    """The newest checkpoint whose every byte is as it was written: those that are newer may be damaged."""
    committed = checkpoints.look(place).committed
    best = checkpoints.best(place)
    intact = (each for each in committed if checkpoints.verdict(place, each) == checkpoints.INTACT)
    return [*itertools.islice(intact, 1), *(each for each in committed if best and each.step == best.step)]
