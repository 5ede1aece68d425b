"""Options that several commands have, and what they mean as settings."""

from __future__ import annotations

import json
import re
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from trainer import resolve
from trainer.errors import ConfigError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class LogFormat(str, Enum):
    """How a run shows itself."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    JSON = "json"


Recipe = Annotated[str | None, typer.Option("--recipe", help=f"A named config: {', '.join(resolve.recipes())}.")]
File = Annotated[Path | None, typer.Option("--config", help="A YAML file of settings over the recipe's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One setting over all others, as key=value; repeatable.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with the four Fashion-MNIST files, or a root of torchvision's; default: find or download them.",
    ),
]
Runs = Annotated[
    str,
    typer.Option(
        "--storage",
        help="Where runs are kept: a folder, or s3://, gs:// or az://bucket/prefix.",
        envvar="TRAINER_STORAGE",
    ),
]
Workers = Annotated[str | None, typer.Option(help="Training processes: N, or MIN-MAX (elastic).")]
Gpu = Annotated[bool | None, typer.Option("--gpu/--cpu", help="Give each worker a GPU.")]
CpusPerWorker = Annotated[int | None, typer.Option(help="CPU cores of each worker.")]
Format = Annotated[LogFormat, typer.Option(help="auto: live in a terminal, else plain lines.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig; default: the current one.")]
Namespace = Annotated[
    str | None, typer.Option(help="Namespace of the chart; default: the context's, or the one that has the chart.")
]


def as_overrides(
    overrides: list[str] | None, workers: str | None, gpu: bool | None, cpus_per_worker: int | None
) -> list[str]:
    """``--set`` and the options that stand for settings, as ``key=value``."""
    options = {"workers": workers, "gpu": gpu, "cpus_per_worker": cpus_per_worker}
    given = [
        f"{key}={json.dumps(value) if isinstance(value, bool) else value}"
        for key, value in options.items()
        if value is not None
    ]
    return [*(overrides or []), *given]


def seconds_of(text: str) -> float:
    """Return a duration such as ``30s``, ``5m``, ``2h`` or ``1d`` in seconds; a number alone is seconds.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if not match:
        raise ConfigError(f"--since: {text!r} is not a duration", "write it as 30s, 5m, 2h or 1d")
    return float(match[1]) * SECONDS[match[2] or "s"]


def run_name(name: str | None, recipe: str | None) -> str:
    """Return the name of a run: the given one, or the recipe and the time."""
    return name or f"{recipe or resolve.DEFAULT_RECIPE}-{time.strftime('%Y%m%d-%H%M%S')}"
