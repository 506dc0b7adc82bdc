"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130  # exit status, as a shell tells SIGINT

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: strategy.sigma=0.02."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT|ray://HOST:PORT",
        help="Ray cluster to use, as workers.address. Default: a private one on this machine.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Last line of stdout: one JSON object. All else goes to stderr."),
]
Run = Annotated[Path, typer.Argument(help="Run folder.")]
Generation = Annotated[
    int | None, typer.Option(min=0, help="Of a run: how many generations were done.")
]
