"""`es-align bench`: what is imported inside, and why, says `es_align.cli`."""

from typing import Annotated

import typer

from es_align.cli_options import AsJson

bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True, rich_markup_mode=None)


@bench.command("population")
def bench_population(
    model: Annotated[
        str, typer.Option(help="Hub id, folder or bundled name.")
    ] = "smollm2-135m-instruct",
    precision: Annotated[str, typer.Option(help="bf16, int8 or int4.")] = "bf16",
    space: Annotated[
        str, typer.Option(help="singular_values, core or weights.")
    ] = "singular_values",
    rank: Annotated[int, typer.Option(help="Of the directions, the core, or the noise.")] = 8,
    members: Annotated[int, typer.Option(help="Perturbed models at once.")] = 64,
    requests: Annotated[int, typer.Option(help="Shared out to the members.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Of every request, exactly.")] = 64,
    prompt_tokens: Annotated[int, typer.Option(help="Of every request, at random.")] = 32,
    repeats: Annotated[int, typer.Option(help="The median of so many counts.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Of each engine. Default: all cores.")] = None,
    kv_cache_gb: Annotated[float, typer.Option(help="Of each engine.")] = 1.0,
    sigma: Annotated[float, typer.Option(help="Size of the perturbation.")] = 0.05,
    stock_slots: Annotated[
        int | None, typer.Option(help="Adapters in one batch of multi-LoRA. Default: all.")
    ] = None,
    no_stock: Annotated[bool, typer.Option("--no-stock", help="Without multi-LoRA.")] = False,
    eager: Annotated[bool, typer.Option("--eager", help="Compile no arm: quick to start.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tokens per second of a population beside unmodified vLLM and its multi-LoRA, in turns."""
    from es_align.bench.settings import BenchSettings, check_settings
    from es_align.terminal import quiet_libraries, result_stream, write_result

    settings = BenchSettings(
        model=model,
        precision=precision,
        space=space,
        rank=rank,
        members=members,
        requests=requests,
        new_tokens=new_tokens,
        prompt_tokens=prompt_tokens,
        repeats=repeats,
        threads=threads,
        kv_cache_gb=kv_cache_gb,
        sigma=sigma,
        has_stock=not no_stock,
        stock_slots=stock_slots,
        is_eager=eager,
    )
    check_settings(settings)
    with result_stream(as_json=as_json) as stream:
        from rich.console import Console

        from es_align.bench.population import bench_population as run_bench
        from es_align.bench.population import result_table

        quiet_libraries()
        result = run_bench(settings, note=lambda line: typer.echo(line, err=True))
        if as_json:
            write_result(result, stream, as_json=True)
        else:
            Console(file=stream, highlight=False).print(result_table(result))
