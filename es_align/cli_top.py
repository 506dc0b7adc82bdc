"""`es-align top`: what is imported inside, and why, says `es_align.cli`."""

from typing import Annotated

import typer

from es_align.cli_options import AsJson, Run


def top(
    run: Run,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a run: progress, reward, failures and workers. Ends with q; reads files alone."""
    from rich.console import Console

    from es_align.terminal import result_stream, write_result
    from es_align.top import RunReader
    from es_align.top_view import show, watch

    reader = RunReader(run)
    with result_stream(as_json=as_json) as stream:
        if as_json:
            write_result(reader.view(), stream, as_json=True)
            return
        console = Console(file=stream, highlight=False)
        # Without a terminal a picture that changes would be a pile of pictures.
        if once or not console.is_terminal:
            show(reader, console)
        else:
            watch(reader, console)
