"""The queries of the boards as Grafana would ask them: variables found and filled in, and Prometheus asked.

For tests, which hold each query against a Prometheus, and for the pictures.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tools.dashboards.grafana import Json

SCRAPE_S = 15  # what Grafana takes for the scrape interval, unless the data source says otherwise
POINTS = 400  # of a curve in a panel that is half a screen wide


@dataclass(frozen=True)
class Range:
    """A board's time range, in seconds since 1970."""

    begin: float
    end: float

    @property
    def step(self) -> int:
        """Seconds between two points of a curve."""
        return max(SCRAPE_S, round((self.end - self.begin) / POINTS))

    def variables(self) -> dict[str, str]:
        """Return Grafana's own variables."""
        seconds = round(self.end - self.begin)
        return {
            "__range": f"{seconds}s",
            "__range_s": str(seconds),
            "__interval": f"{self.step}s",
            "__rate_interval": f"{max(4 * SCRAPE_S, self.step + SCRAPE_S)}s",
        }


class Question(NamedTuple):
    """A query of a board: where it is, and whether it is asked at the end of the time range alone."""

    place: str
    expression: str
    at_the_end: bool

    def answer(self, values: Mapping[str, str], period: Range, prometheus: Prometheus) -> list[Json]:
        """Return what it gets from Prometheus."""
        expression = fill(self.expression, values)
        return prometheus.at(expression, period.end) if self.at_the_end else prometheus.over(expression, period)


class QueryError(Exception):
    """Prometheus did not answer, or refused a query."""


class Prometheus:
    """A Prometheus at a URL."""

    def __init__(self, url: str):
        self._api = url.rstrip("/") + "/api/v1"

    def at(self, expression: str, time: float) -> list[Json]:
        """Return the series of an expression, with `value`, at one moment."""
        return self._ask("query", query=expression, time=time)

    def over(self, expression: str, period: Range) -> list[Json]:
        """Return the series of an expression, with `values`, over a time range."""
        return self._ask("query_range", query=expression, start=period.begin, end=period.end, step=period.step)

    def _ask(self, what: str, **parameters: Any) -> list[Json]:
        address = f"{self._api}/{what}"
        form = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(address, form, timeout=60) as answer:  # noqa: S310 # http, or what the user gave
                series: list[Json] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters['query']}: {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise QueryError(f"{address}: {error}") from error
        return series


def panels(board: Json) -> Iterator[Json]:
    """Yield every panel with queries, also those of closed rows."""
    for panel in board["panels"]:
        for each in [panel, *panel.get("panels", [])]:
            if each.get("targets"):
                yield each


def questions(board: Json) -> Iterator[Question]:
    """Yield every query of a board: of variables, annotations and panels."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield Question(f"variable {variable['name']}", options_query(variable), True)
    for mark in board["annotations"]["list"]:
        yield Question(f"annotation {mark['name']}", mark["expr"], False)
    for panel in panels(board):
        for target in panel["targets"]:
            yield Question(f"{panel['title']} {target['refId']}", target["expr"], target["instant"])


def options_query(variable: Json) -> str:
    """Return the expression whose answer holds a variable's values."""
    found = re.fullmatch(r"query_result\((.*)\)", variable["query"]["query"])
    if not found:
        raise ValueError(f"variable {variable['name']}: its query must be query_result(…)")
    return found[1]


def fill(expression: str, values: Mapping[str, str]) -> str:
    """Return an expression with its variables filled in; `$1` of a replacement stays.

    Raises:
        KeyError: a variable has no value.
    """
    return re.sub(r"\$(?:\{([a-z_]\w*)\}|([a-z_]\w*))", lambda found: values[found[1] or found[2]], expression)


def variables(
    board: Json, period: Range, ask: Callable[[str, float], list[Json]], given: Mapping[str, str]
) -> dict[str, str]:
    """Return each variable's value when a board opens: what is given, else all or the first of what `ask` finds."""
    values = {**period.variables(), "datasource": "prometheus"}
    for variable in board["templating"]["list"]:
        name = variable["name"]
        if name in given:
            values[name] = given[name]
        elif variable.get("allValue"):
            values[name] = variable["allValue"]
        elif variable["type"] == "query":
            found = _options(variable, ask(fill(options_query(variable), values), period.end))
            values[name] = f"({'|'.join(found)})" if variable["multi"] else next(iter(found), "")
    return values


def _options(variable: Json, answer: list[Json]) -> list[str]:
    pattern = re.compile(variable["regex"].strip("/"))
    texts = [",".join(f'{key}="{value}"' for key, value in series["metric"].items()) for series in answer]
    return list(dict.fromkeys(found[1] for found in map(pattern.search, texts) if found))
