"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: strategy.sigma=0.02."),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Last line of stdout: one JSON object. All else goes to stderr."),
]
Run = Annotated[Path, typer.Argument(help="Run folder.")]
Generation = Annotated[
    int | None, typer.Option(min=0, help="Of a run: how many generations were done.")
]
