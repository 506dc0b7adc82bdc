"""The command line: each command calls the function of `es_align` of the same name.

torch and Ray are imported inside the commands, after the configuration has been checked: `--help`
and a mistake in a config answer at once. Exit codes: 0 done, 1 a bug or a failed check, 2 a mistake
of the user's (told in one paragraph, without a traceback), 130 interrupted.
"""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from es_align.cli_bench import bench
from es_align.cli_compare import compare, sft
from es_align.cli_options import INTERRUPTED, Address, AsJson, Generation, Overrides, Run
from es_align.cli_plan import plan
from es_align.cli_top import top
from es_align.shadowing import foreign_kernels, shadowing_kernels

app = typer.Typer(
    name="es-align",
    help="Align a language model on any reward, without backpropagation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich alone takes longer than the rest
)

app.add_typer(bench, name="bench")
app.command()(top)
app.command()(plan)
app.command()(compare)
app.command()(sft)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/quickstart.yaml.")],
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<config name>-<seed>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train a model, and measure it before, during and after on held-out prompts."""
    from es_align.config_loading import default_run_dir, load_config
    from es_align.preflight import validate
    from es_align.progress import ConsoleReporter
    from es_align.terminal import quiet_libraries, result_stream, write_result

    named = [] if address is None else [f"workers.address={address}"]
    settings = load_config(config, [*named, *(overrides or ())])
    validate(settings, is_begun=resume)
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
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="Run folder, model, or folder of a PEFT adapter."),
    ],
    task: Annotated[
        str | None, typer.Option(help="gsm8k, ifeval, ... Default: the one the run is tested on.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many prompts. Default: the whole split.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    samples: Annotated[
        int, typer.Option(min=1, help="Answers to each prompt: mean@n and pass@k.")
    ] = 1,
    details: Annotated[Path | None, typer.Option(help="Write one row a completion, JSONL.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The task's file or folder. Default: the hub.")
    ] = None,
    generation: Generation = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, int8 or int4.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm or torch.")] = None,
    address: Address = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's best generation, a model or an adapter on a task's held-out prompts."""
    from es_align.progress import ConsoleReporter
    from es_align.terminal import quiet_libraries, result_stream, write_result

    named = {"precision": precision, "workers.engine": engine, "workers.address": address}
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
            temperature=temperature,
            samples=samples,
            data=data,
            details=details,
            reporter=ConsoleReporter(to_stderr=as_json),
        )
        write_result(result, stream, as_json=as_json)


@app.command()
def score(
    task: Annotated[str, typer.Option(help="gsm8k or ifeval.")],
    responses: Annotated[
        Path, typer.Option(help='JSONL: {"key" or "index": ..., "response": "..."} a line.')
    ],
    details: Annotated[Path | None, typer.Option(help="Write one row a response, JSONL.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The task's file or folder. Default: the hub.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count unusable lines instead of stopping.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score responses that are there already, without a model."""
    from es_align.responses import score_responses
    from es_align.terminal import result_stream, write_result

    result = score_responses(task, responses, data=data, details=details, skip_bad=skip_bad)
    with result_stream(as_json=as_json) as stream:
        write_result(result, stream, as_json=as_json)


@app.command(
    "lm-eval",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness's own command, with `--model es_align --model_args target=TARGET`."""
    from importlib import import_module, util

    from es_align.errors import ConfigError

    if util.find_spec("lm_eval") is None:
        raise ConfigError("lm-eval is not installed; run `EXTRAS=dev,grpo,eval make setup`")
    import_module("es_align.harness")
    sys.argv = ["lm_eval", *context.args]
    import_module("lm_eval.__main__").cli_evaluate()


@app.command()
def replay(run: Run, generation: Generation = None, as_json: AsJson = False) -> None:
    """Rebuild a generation (the last one) from the ledger, and compare digests."""
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
def quantize(
    model: Annotated[str, typer.Argument(help="Hub id, directory or bundled name.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    scheme: Annotated[Literal["int8", "int4"], typer.Option(help="W8A8 or W4A16.")],
    group_size: Annotated[
        int | None, typer.Option(help="int4: 128, 64 or 32. Default: the largest that fits.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as a quantised checkpoint (compressed-tensors) that runs as it is."""
    from es_align.preflight import validate_quantize
    from es_align.terminal import quiet_libraries, result_stream, write_result

    validate_quantize(model, out, scheme, group_size)
    with result_stream(as_json=as_json) as stream:
        from es_align.api import quantize as run_quantize

        quiet_libraries()
        result = run_quantize(model, out, scheme, group_size=group_size)
        write_result(result, stream, as_json=as_json)


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
