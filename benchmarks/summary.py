"""What came out of a comparison, for machines (JSON) and for people (markdown)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from comparisons import Comparison, Goal

BUSY = 0.15  # CPUs used by others, above which a round is not trusted


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(goal: Goal, rounds: list[dict[str, Any]]) -> list[float]:
    """The goal's ratio in each round."""
    return [
        each["sides"][goal.over]["values"][goal.number]
        / (each["sides"][goal.under]["values"][goal.number] if goal.under else 1.0)
        for each in rounds
    ]


def judge(goal: Goal, values: list[float]) -> dict[str, Any]:
    """Whether the median meets the goal, and whether the worse quartile does too."""
    low, middle, high = quartiles(values)
    limit, sign, worse = (goal.at_least, 1, low) if goal.at_least is not None else (goal.at_most, -1, high)
    short = sign * (limit - middle)
    if short > 0:
        verdict = f"**missed** by {short:.3g} ({short / limit:.0%})"
    elif sign * (limit - worse) > 0:
        verdict = f"met by the median; the worse quartile, {worse:.3g}, does not"
    else:
        verdict = "**met**"
    return {"text": goal.text, "limit": limit, "kind": "at least" if sign > 0 else "at most", "values": values} | {
        "median": middle,
        "quartiles": [low, high],
        "met": short <= 0,
        "verdict": verdict,
    }


def write(folder: Path, name: str, result: dict[str, Any], comparison: Comparison) -> None:
    """Put ``<name>.json`` and ``<name>.md`` into a folder."""
    rounds = result["rounds"]
    result["goals"] = [judge(goal, ratios(goal, rounds)) for goal in comparison.goals] if rounds else []
    for goal in result["goals"] if result["quick"] else ():
        goal["verdict"] = "not judged: a quick run"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(name, result) + "\n")


def markdown(name: str, result: dict[str, Any]) -> str:
    """The page of one comparison."""
    command = f"python benchmarks/bench.py --only {name} --rounds {result['rounds_asked']}"
    lines = [f"# {name}", f"{result['title']}. By `{command + (' --quick' if result['quick'] else '')}`."]
    if result["quick"]:
        lines.append("**A quick run: it shows that the comparison works, not how it ends.**")
    if result.get("failed"):
        lines.append(f"**Failed**: {result['failed']}")
    if result["rounds"]:
        lines += [_goals(result["goals"]), "## Medians", _medians(result["rounds"])]
        lines += ["## Rounds", _rounds(result), _remarks(result["rounds"])]
    return "\n\n".join([*lines, "## Machine", _machine(result)])


def _goals(goals: list[dict[str, Any]]) -> str:
    rows = [
        [
            goal["text"],
            f"{goal['kind']} {goal['limit']:g}",
            f"**{_show(goal['median'])}**",
            " – ".join(map(_show, goal["quartiles"])),
            goal["verdict"],
        ]
        for goal in goals
    ]
    return _table(["ratio (or seconds)", "goal", "median", "quartiles", "result"], rows)


def _medians(rounds: list[dict[str, Any]]) -> str:
    names = list(rounds[0]["sides"])
    numbers = list(dict.fromkeys(number for name in names for number in rounds[0]["sides"][name]["values"]))
    rows = []
    for number in numbers:
        cells = []
        for name in names:
            values = [each["sides"][name]["values"].get(number) for each in rounds]
            present = [value for value in values if value is not None]
            cells.append(_show(statistics.median(present)) if present else "")
        rows.append([number.replace("_", " "), *cells])
    return _table(["", *names], rows)


def _rounds(result: dict[str, Any]) -> str:
    names = list(result["rounds"][0]["sides"])
    wanted = {side: goal for goal in reversed(result["wanted"]) for side in goal["sides"]}  # the first that names it
    rows = []
    for i, each in enumerate(result["rounds"]):
        numbers = [
            each["sides"][name]["values"].get(wanted[name]["number"]) if name in wanted else None for name in names
        ]
        ratios_here = [_show(goal["values"][i]) for goal in result["goals"]]
        others = f"{each['others']:.2f}{' (busy)' if each['others'] > BUSY else ''}"
        rows.append(
            [
                str(each["round"]),
                "→" if each["forward"] else "←",
                *("" if number is None else _show(number) for number in numbers),
                ", ".join(ratios_here),
                others,
                f"{each['load']:.1f}",
                str(each["tries"]),
            ]
        )
    return _table(["round", "order", *names, "ratios", "others' CPUs", "load", "tries"], rows)


def _remarks(rounds: list[dict[str, Any]]) -> str:
    busy = sum(each["others"] > BUSY for each in rounds)
    remarks = ["Each round runs every side once, in the order shown; a ratio pairs two runs of one round."]
    if busy:
        remarks.append(
            f"**{busy} of {len(rounds)} rounds ran while other processes used more than {BUSY:.0%} of one CPU**, also "
            "when repeated: trust the ratios less."
        )
    notes = {f"{name}: {note}" for each in rounds for name, side in each["sides"].items() for note in side["notes"]}
    return "\n".join(f"- {remark}" for remark in [*remarks, *sorted(notes)])


def _machine(result: dict[str, Any]) -> str:
    facts = {**result["machine"], "date": result["date"]}
    return _table(["", ""], [[key.replace("_", " "), str(value)] for key, value in facts.items()])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _show(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 10 else f"{value:.3f}"
