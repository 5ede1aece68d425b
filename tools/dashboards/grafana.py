"""Grafana's classic dashboard JSON, as far as the boards use it: queries, panels, rows, variables, annotations.

Everything asks the data source ${datasource}. A panel has a title, a description and a unit, or it cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 41  # Grafana 12; newer ones migrate it when they load it
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "fashion-mnist-on-ray"
COLUMNS = 24
ROW_HEIGHT = 1


def query(expression: str, legend: str = "", *, now: bool = False, table: bool = False) -> Json:
    """Return a target: over the time range or, with `now` or as a column of a `table`, at its end."""
    instant = now or table
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": " ".join(expression.split()),
        "format": "table" if table else "time_series",
        "instant": instant,
        "legendFormat": legend or "__auto",
        "range": not instant,
    }


# --- Looks ------------------------------------------------------------------------------------------------------------


def fixed(color: str) -> Json:
    """Return the setting that draws all series in one color."""
    return {"mode": "fixed", "fixedColor": color}


def thresholds(base: str, *steps: tuple[float, str]) -> Json:
    """Return the color below the first step, and from each step on."""
    return {
        "mode": "absolute",
        "steps": [{"color": base, "value": None}, *({"color": color, "value": value} for value, color in steps)],
    }


def value_names(names: Mapping[float, tuple[str, str]]) -> list[Json]:
    """Return a mapping of numbers to words and colors."""
    options = {
        f"{value:g}": {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(names.items())
    }
    return [{"type": "value", "options": options}]


def override(name: str, **properties: Any) -> Json:
    """Return what a series or column looks like; keys are properties, `custom__x` means `custom.x`."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


# --- Panels -----------------------------------------------------------------------------------------------------------


def _panel(kind: str, title: str, description: str, targets: Sequence[Json], **rest: Any) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": " ".join(description.split()),
        "datasource": DATASOURCE,
        "targets": [{**target, "refId": chr(ord("A") + index)} for index, target in enumerate(targets)],
        **rest,
    }


def time_series(
    title: str,
    description: str,
    unit: str,
    *targets: Json,
    size: tuple[int, int] = (12, 8),
    stack: bool = False,
    steps: bool = False,
    legend: Sequence[str] = (),
    limits: Json | None = None,
    most: float | None = None,
    fill: int = 0,
    decimals: int | None = None,
    zero: bool = True,
    count: bool = False,
    log: bool = False,
    no_value: str = "",
    overrides: Iterable[Json] = (),
    rename: tuple[str, str] | None = None,
) -> Json:
    """Return curves over time. `legend`: reductions that it lists beside the names, as a table.

    `most` bounds the axis, which begins at 0 unless `zero` is false. `limits` are thresholds, drawn as dashed lines.
    `fill`: opacity of the area below. `count`: it is a whole number, often 0. `rename` is a regular expression, and
    what a name that matches becomes.
    """
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if steps else "linear",
        "lineWidth": 0 if stack else 2,  # a line of what is 0 would lie on the others
        "fillOpacity": 70 if stack else fill,
        "gradientMode": "none" if stack else "opacity",
        "showPoints": "never",
        "spanNulls": 60_000,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 2} if log else {"type": "linear"},
        **({} if log or not zero else {"axisSoftMin": 0}),
        **({"axisSoftMax": 1} if count else {}),
        "thresholdsStyle": {"mode": "dashed" if limits else "off"},
    }
    defaults = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "custom": custom,
        **({"decimals": 0 if count else decimals} if count or decimals is not None else {}),
        **({"thresholds": limits} if limits else {}),
        **({"max": most} if most is not None else {}),
        **({"noValue": no_value} if no_value else {}),
    }
    return _panel(
        "timeseries",
        title,
        description,
        targets,
        gridPos={"w": size[0], "h": size[1]},
        fieldConfig={"defaults": defaults, "overrides": list(overrides)},
        options={
            "legend": {
                "showLegend": True,
                "displayMode": "table" if legend else "list",
                "placement": "bottom",
                "calcs": list(legend),
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        **_renamed(rename),
    )


def stat(
    title: str,
    description: str,
    unit: str,
    *targets: Json,
    size: tuple[int, int] = (3, 4),
    decimals: int | None = None,
    color: Json | None = None,
    limits: Json | None = None,
    mappings: Sequence[Json] = (),
    no_value: str = "–",
    fill: bool = False,
    curve: bool = True,
    named: bool = False,
) -> Json:
    """Return a large number, over its curve if there is one; with `fill` on a colored ground, `named` with its name."""
    defaults: Json = {
        "unit": unit,
        "color": color or {"mode": "thresholds"},
        "thresholds": limits or thresholds("text"),
        "mappings": list(mappings),
        "noValue": no_value,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    return _panel(
        "stat",
        title,
        description,
        targets,
        gridPos={"w": size[0], "h": size[1]},
        fieldConfig={"defaults": defaults, "overrides": []},
        options={
            "colorMode": "background_solid" if fill else "value",
            "graphMode": "area" if curve and not targets[0]["instant"] else "none",
            "justifyMode": "center",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value_and_name" if named else "value",
        },
    )


def bar_gauge(
    title: str,
    description: str,
    unit: str,
    *targets: Json,
    size: tuple[int, int] = (12, 8),
    decimals: int | None = None,
    limits: Json | None = None,
    color: Json | None = None,
    most: float | None = None,
    no_value: str = "–",
    overrides: Iterable[Json] = (),
) -> Json:
    """Return a horizontal bar for each series."""
    defaults: Json = {
        "unit": unit,
        "min": 0,
        "color": color or {"mode": "thresholds" if limits else "palette-classic"},
        "thresholds": limits or thresholds("blue"),
        "noValue": no_value,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    if most is not None:
        defaults["max"] = most
    return _panel(
        "bargauge",
        title,
        description,
        targets,
        gridPos={"w": size[0], "h": size[1]},
        fieldConfig={"defaults": defaults, "overrides": list(overrides)},
        options={
            "displayMode": "basic",
            "orientation": "horizontal",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showUnfilled": True,
            "valueMode": "color",
            "namePlacement": "left",
            "sizing": "manual",
            "minVizHeight": 16,
            "maxVizHeight": 28,
            "minVizWidth": 8,
            "text": {"valueSize": 16},
        },
    )


def table(
    title: str,
    description: str,
    columns: Mapping[str, Json | str],
    *,
    more: Sequence[Json] = (),
    size: tuple[int, int] = (24, 8),
    looks: Iterable[Json] = (),
    sort: tuple[str, bool] | None = None,
    no_value: str = "",
) -> Json:
    """Return a table, a row for each series.

    `columns`: by title, in order, what is in it: the label of that name, or a query, whose value it is. Rows of the
    queries that have the same labels are one row. `more`: queries of which only the labels are shown. `sort`: a column,
    and whether its largest value is first.
    """
    targets = [*(column for column in columns.values() if not isinstance(column, str)), *more]
    fields = {"Time": None}
    index = 0
    for heading, column in columns.items():
        if isinstance(column, str):
            fields[column] = heading
        else:
            # the one frame of a single query keeps its plain name
            fields["Value" if len(targets) == 1 else f"Value #{chr(ord('A') + index)}"] = heading
            index += 1
    # a cell without a value, while the default's is what an empty table says
    empty = {"matcher": {"id": "byRegexp", "options": ".*"}, "properties": [{"id": "noValue", "value": "–"}]}
    defaults = {
        "unit": "none",
        "custom": {"align": "left", "filterable": False},
        **({"noValue": no_value} if no_value else {}),
    }
    return _panel(
        "table",
        title,
        description,
        targets,
        gridPos={"w": size[0], "h": size[1]},
        fieldConfig={"defaults": defaults, "overrides": [empty, *looks]},
        options={
            "cellHeight": "sm",
            "showHeader": True,
            "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else [],
        },
        transformations=[
            {"id": "merge", "options": {}},
            {
                "id": "filterFieldsByName",
                "options": {"include": {"names": [name for name in fields if name != "Time"]}},
            },
            {
                "id": "organize",
                "options": {
                    "excludeByName": {},
                    "indexByName": {name: place for place, name in enumerate(fields) if name != "Time"},
                    "renameByName": {name: heading for name, heading in fields.items() if heading},
                },
            },
        ],
    )


def text(title: str, description: str, content: str, size: tuple[int, int]) -> Json:
    """Return a panel of Markdown."""
    return {
        "type": "text",
        "title": title,
        "description": description,
        "gridPos": {"w": size[0], "h": size[1]},
        "options": {"mode": "markdown", "content": content},
    }


def _renamed(rename: tuple[str, str] | None) -> Json:
    if rename is None:
        return {}
    return {"transformations": [{"id": "renameByRegex", "options": {"regex": rename[0], "renamePattern": rename[1]}}]}


# --- Variables, annotations, the board --------------------------------------------------------------------------------


def datasource_variable() -> Json:
    """Return the choice of a Prometheus: at first Grafana's default one, or that of the chart's values."""
    return {
        "name": "datasource",
        "type": "datasource",
        "label": "Prometheus",
        "description": "The Prometheus that reads the runs.",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "current": {"selected": False, "text": "default", "value": "default"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "skipUrlSync": False,
    }


def query_variable(name: str, label: str, description: str, expression: str, *, many: bool) -> Json:
    """Return the values that the label `name` has in a query's answer, in its order: those of the time range.

    `many`: several may be chosen, and all are at first; else the first is.
    """
    question = f"query_result({' '.join(expression.split())})"
    return {
        "name": name,
        "type": "query",
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"query": question, "refId": f"variable-{name}"},
        "regex": f'/{name}="([^"]+)"/',
        "refresh": 2,  # when the time range changes: a run that ended is found in its own
        "sort": 0,
        "hide": 0,
        "includeAll": many,
        "multi": many,
        **({"allValue": ".+", "current": {"selected": False, "text": ["All"], "value": ["$__all"]}} if many else {}),
        "options": [],
        "skipUrlSync": False,
    }


def annotation(name: str, color: str, expression: str, title: str, words: str, *, shown: bool = True) -> Json:
    """Return marks in all curves of a board, where a query has a value; not `shown`: until somebody asks for them."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": shown,
        "hide": False,
        "iconColor": color,
        "expr": " ".join(expression.split()),
        "step": "15s",
        "titleFormat": title,
        "textFormat": words,
        "tagKeys": "",
        "useValueForTime": False,
    }


def board(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Sequence[Json],
    rows: Mapping[str, Sequence[Json]],
    closed: Mapping[str, Sequence[Json]] | None = None,
    annotations: Sequence[Json] = (),
    since: str,
) -> Json:
    """Return a dashboard. `rows`: panels below their headings (an empty one has none), left to right; `closed`: those
    of rows that are opened by a click.
    """
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair in all panels
        "refresh": "30s",
        "time": {"from": since, "to": "now"},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "links": [_links()],
        "templating": {"list": [datasource_variable(), *variables]},
        "annotations": {"list": list(annotations)},
        "panels": _placed(rows, closed or {}),
    }


def _links() -> Json:
    return {
        "type": "dashboards",
        "title": "Training",
        "tooltip": "The other boards, with the same run and time range",
        "icon": "external link",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "url": "",
    }


def _placed(rows: Mapping[str, Sequence[Json]], closed: Mapping[str, Sequence[Json]]) -> list[Json]:
    panels: list[Json] = []
    top = 0
    number = 0
    for heading, content in [*rows.items(), *closed.items()]:
        if heading:
            number += 1
            row = {"id": number, "type": "row", "title": heading, "collapsed": heading in closed, "panels": []}
            panels.append({**row, "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": ROW_HEIGHT}})
            top += ROW_HEIGHT
        inside, bottom = _flow(content, top, number)
        number += len(inside)
        if heading in closed:
            panels[-1]["panels"] = inside
        else:
            panels += inside
            top = bottom
    return panels


def _flow(content: Sequence[Json], top: int, number: int) -> tuple[list[Json], int]:
    """Return panels from left to right, in as many lines as they need, and where the next line begins."""
    placed, left, height = [], 0, 0
    for panel in content:
        width = panel["gridPos"]["w"]
        if left + width > COLUMNS:
            top, left, height = top + height, 0, 0
        number += 1
        placed.append({"id": number, **panel, "gridPos": {"x": left, "y": top, "w": width, "h": panel["gridPos"]["h"]}})
        left += width
        height = max(height, panel["gridPos"]["h"])
    return placed, top + height
