"""Options that several commands take, each with one text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer import resolve

Recipe = Annotated[str | None, typer.Option("--recipe", help=f"A named config: {', '.join(resolve.recipes())}.")]
File = Annotated[Path | None, typer.Option("--config", help="A YAML file of settings over the recipe's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One setting over all others, as key=value; may be repeated.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the four Fashion-MNIST files; else they are found or fetched."),
]
Runs = Annotated[
    str,
    typer.Option(
        "--storage", help="Where runs are kept: a folder, s3://, gs:// or az://bucket/prefix.", envvar="TRAINER_STORAGE"
    ),
]
