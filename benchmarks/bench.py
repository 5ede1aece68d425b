"""Our speed against the alternatives: the sides of a comparison take turns on one machine; ratios are of pairs.

``python benchmarks/bench.py [--only NAMES] [--rounds N] [--quick] [--output FOLDER]``
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import summary
from comparisons import COMPARISONS, Comparison
from sides import Bench, SideError

from trainer.errors import TrainerError
from trainer.training import fetch

ROUNDS = 7
REPEATS = 3  # of a round during which others used the machine
RESULTS = Path(__file__).parent.parent / "docs" / "results"


def main() -> int:
    """Run comparisons; the exit code is 1 if a goal was missed or a side failed."""
    options = parse()
    machine.adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended also then
    try:
        data = fetch.find_dataset(options.data, log=lambda _: None)
    except TrainerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    bench = Bench(data, quick=options.quick)
    try:
        results = [run(name, bench, options) for name in options.only]
    except KeyboardInterrupt:
        print("Stopped; the rounds so far are kept.", file=sys.stderr)
        return 130
    finally:
        machine.end_descendants()
    return 0 if all(results) else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Our speed against the alternatives, side by side.")
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="NAME")
    parser.add_argument("--rounds", type=int, help="default: 7; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="one tiny round, busy or not: does it work?")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: docs/results")
    parser.add_argument("--data", type=Path, help="folder with the four Fashion-MNIST files; else they are found")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else ROUNDS
    return options


def run(name: str, bench: Bench, options: argparse.Namespace) -> bool:
    """One comparison, written down after each round; whether all its goals were met."""
    comparison = COMPARISONS[name]
    result: dict[str, Any] = {
        "name": name,
        "title": comparison.title,
        "quick": bench.quick,
        "rounds_asked": options.rounds,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": machine.describe(),
        "wanted": [
            {"sides": [side for side in (goal.over, goal.under) if side], "number": goal.number}
            for goal in comparison.goals
        ],
        "rounds": [],
    }
    print(f"\n{name}: {comparison.title}")
    for number in range(1, options.rounds + 1):
        try:
            result["rounds"].append(quiet_round(comparison, replace(bench, round=number)))
        except SideError as failure:
            result["failed"] = str(failure)
            print(f"  failed: {failure}")
        summary.write(options.output, name, result, comparison)
        if "failed" in result:
            return False
    for goal in result["goals"]:
        low, high = goal["quartiles"]
        print(
            f"  {goal['text']}: median {goal['median']:.3f} [{low:.3f} – {high:.3f}], {goal['kind']} {goal['limit']:g}:"
        )
        print(f"    {goal['verdict'].replace('*', '')}")
    print(f"  {options.output / name}.md")
    return all(goal["met"] for goal in result["goals"])


def quiet_round(comparison: Comparison, bench: Bench) -> dict[str, Any]:
    """One round; repeated while others used the machine, of which the quietest is kept."""
    best: dict[str, Any] | None = None
    tries = 0
    while tries < (1 if bench.quick else 1 + REPEATS):
        this, tries = one_round(comparison, bench), tries + 1
        if best is None or this["others"] < best["others"]:
            best = this
        if this["others"] <= summary.BUSY:
            break
        print(f"    others used {this['others']:.2f} CPUs")
    return best | {"tries": tries}


def one_round(comparison: Comparison, bench: Bench) -> dict[str, Any]:
    """Every side once: forward in odd rounds and backward in even ones, so A B, B A, A B ..."""
    forward = bench.round % 2 == 1
    order = list(comparison.sides) if forward else list(comparison.sides)[::-1]
    ran = {}
    for name in order:
        try:
            ran[name] = comparison.sides[name](bench)
        except SideError as failure:
            raise SideError(f"{name}: {failure}") from failure
        values = "  ".join(f"{number} {value:,.2f}" for number, value in ran[name].values.items())
        print(f"  round {bench.round}  {name:<20} {values}  (others {ran[name].machine['others']:.2f})", flush=True)
    return {
        "round": bench.round,
        "forward": forward,
        "others": max(each.machine["others"] for each in ran.values()),
        "load": max(each.machine["load"] for each in ran.values()),
        "sides": {name: vars(ran[name]) for name in comparison.sides},
    }


if __name__ == "__main__":
    sys.exit(main())
