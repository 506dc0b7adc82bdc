"""`es-align compare` and `es-align sft`: what is imported inside, and why, says `es_align.cli`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from es_align.cli_options import INTERRUPTED, AsJson, Overrides


def compare(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/compare-quick.yaml.")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: runs/<config name>.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on, also with arms or seeds added; what is done stays as it is."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run ES and GRPO arms on one task under one budget, and report both."""
    from es_align.compare.config import CompareConfig
    from es_align.config_loading import read_settings, validated
    from es_align.terminal import result_stream, write_result

    settings = validated(CompareConfig, read_settings(config, overrides or ()), str(config))
    with result_stream(as_json=as_json) as stream:
        from es_align.compare.running import compare as run_comparison
        from es_align.compare.table import table

        folder = _folder(out, settings.out, config)
        try:
            result = run_comparison(
                settings, folder, resume=resume, say=lambda line: typer.echo(line, err=as_json)
            )
        except KeyboardInterrupt:
            again = [*sys.argv[1:], *([] if resume else ["--resume"])]
            typer.echo(f"stopped; resume with: es-align {shlex.join(again)}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            write_result(result, stream, as_json=True)
        else:
            typer.echo(f"\n{table(result)}\n{folder}: comparison.json, comparison.md, plots")


def sft(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/sft-gsm8k-cpu.yaml.")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: runs/<config name>.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Warm start: train a LoRA on a task's solved problems, for all arms to start from."""
    from es_align.compare.sft_config import SftConfig
    from es_align.config_loading import read_settings, validated
    from es_align.terminal import quiet_libraries, result_stream, write_result

    settings = validated(SftConfig, read_settings(config, overrides or ()), str(config))
    with result_stream(as_json=as_json) as stream:
        from es_align.compare.packages import check_trl

        check_trl()
        from es_align.compare.sft import train_sft

        quiet_libraries()
        folder = _folder(out, settings.out, config)
        result = train_sft(settings, folder, lambda line: typer.echo(line, err=as_json))
        write_result(result, stream, as_json=as_json)


def _folder(asked: Path | None, configured: str | None, config: Path) -> Path:
    return asked or Path(configured or f"runs/{config.stem}")
