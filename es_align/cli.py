"""The command line: each command calls the function of `es_align` of the same name.

torch and Ray are imported inside the commands, after the configuration has been checked: `--help`
and a mistake in a config answer at once. Exit codes: 0 done, 1 a bug or a failed check, 2 a mistake
of the user's (told in one paragraph, without a traceback), 130 interrupted.
"""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from es_align.shadowing import foreign_kernels, shadowing_kernels

INTERRUPTED = 130

app = typer.Typer(
    name="es-align",
    help="Align a language model on any reward, without backpropagation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich alone takes longer than the rest
)

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


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/quickstart.yaml.")],
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<config name>-<seed>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model, and measure it before, during and after on held-out prompts."""
    from es_align.config_loading import default_run_dir, load_config
    from es_align.preflight import validate
    from es_align.progress import ConsoleReporter
    from es_align.terminal import quiet_libraries, result_stream, write_result

    settings = load_config(config, overrides or ())
    validate(settings)
    with result_stream(as_json=as_json) as stream:
        reporter = ConsoleReporter(to_stderr=as_json)
        conflict = foreign_kernels()
        if conflict is not None:
            reporter.note(f"warning: {conflict}")
        try:
            from es_align.api import train as run_training

            quiet_libraries()
            result = run_training(
                settings,
                run_dir=run_dir or default_run_dir(config, settings),
                resume=resume,
                reporter=reporter,
            )
        except KeyboardInterrupt:
            reporter.close()
            again = [*sys.argv[1:], *([] if resume else ["--resume"])]
            typer.echo(f"stopped; resume with: es-align {shlex.join(again)}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        finally:
            reporter.close()
        if as_json:  # a person has just read the reporter's table
            write_result(result, stream, as_json=True)


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Run folder or model.")],
    task: Annotated[
        str | None, typer.Option(help="Task to score it on. Default: the run's own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many prompts.")] = None,
    generation: Generation = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, int8 or int4.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm or torch.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's best generation, or any model, on a task's held-out prompts, greedily."""
    from es_align.progress import ConsoleReporter
    from es_align.terminal import quiet_libraries, result_stream, write_result

    named = {"precision": precision, "workers.engine": engine}
    settings = [f"{key}={value}" for key, value in named.items() if value is not None]
    with result_stream(as_json=as_json) as stream:
        from es_align.api import evaluate as run_evaluation

        quiet_libraries()
        result = run_evaluation(
            target,
            task=task,
            limit=limit,
            overrides=[*settings, *(overrides or ())],
            generation=generation,
            reporter=ConsoleReporter(to_stderr=as_json),
        )
        write_result(result, stream, as_json=as_json)


@app.command()
def replay(run: Run, generation: Generation = None, as_json: AsJson = False) -> None:
    """Rebuild a generation (the last one) from the ledger alone, and compare digests."""
    from es_align.terminal import result_stream, write_result

    with result_stream(as_json=as_json) as stream:
        from es_align.api import replay as run_replay

        write_result(run_replay(run, generation=generation), stream, as_json=as_json)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    generation: Generation = None,
    as_json: AsJson = False,
) -> None:
    """Write the best generation as a PEFT adapter, and check it by loading it again."""
    from es_align.terminal import quiet_libraries, result_stream, write_result

    with result_stream(as_json=as_json) as stream:
        from es_align.api import export as run_export

        quiet_libraries()
        write_result(run_export(run, out, generation=generation), stream, as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at versions, processor, memory and cache: what would stop a run or slow it down."""
    from rich.console import Console

    from es_align.doctor import checks_table, diagnose
    from es_align.terminal import result_stream, write_result

    with result_stream(as_json=as_json) as stream:
        diagnosis = diagnose()
        if as_json:
            write_result(diagnosis, stream, as_json=True)
        else:
            Console(highlight=False).print(checks_table(diagnosis))
    raise typer.Exit(0 if diagnosis.ok else 1)


def main() -> None:
    """Run the command line; the entry point of the `es-align` script."""
    shadowed = shadowing_kernels()
    if shadowed is not None:
        typer.echo(f"error: {shadowed}", err=True)
        sys.exit(2)
    from es_align.errors import EsAlignError

    # A scheduler's polite end is an interrupt too: workers are shut down, the hint is given.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except EsAlignError as error:
        from es_align.terminal import print_error

        print_error(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
