"""A run as one picture on a terminal, and that picture kept up to date.

Workers that do not fit are left out, the troubled and the slow ones last, and their number is said.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from es_align.report.summary import amount, duration
from es_align.top import HeldOut, Life, RunReader, View, WorkerView

REFRESH_S = 1.0
QUIT = b"q"
KEYS_AT_ONCE = 64
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
BESIDE_SPARKLINE = 48  # columns of its line that are taken
LONGEST_SPARKLINE = 60
BESIDE_HELD_OUT = 36
HELD_OUT_WIDTH = 13  # columns of one evaluation
OTHER_LINES = 14  # of a frame, beside its workers
LIFE_STYLES = {"running": "bold green", "elsewhere": "green", "finished": "bold cyan"}
STATE_STYLES = {"ready": "green", "given up": "bold red"}
TROUBLE = "yellow"
FAILURE = "red"
QUIET = "dim"
BAR = "cyan"


def show(reader: RunReader, console: Console) -> None:
    """Print one frame, with all workers."""
    console.print(frame(reader.view(), console))


def watch(reader: RunReader, console: Console) -> None:
    """Show the run until q or Ctrl-C."""
    with suppress(KeyboardInterrupt), _single_keys(), _live(console) as live:
        while True:
            num_rows = max(1, console.height - OTHER_LINES)
            live.update(frame(reader.view(), console, num_rows), refresh=True)
            if QUIT in _pressed(REFRESH_S):
                return


def frame(view: View, console: Console, num_rows: int | None = None) -> RenderableType:
    """The run as rich renders it; at most `num_rows` workers, None: all."""
    head = Table.grid(expand=True, padding=(0, 2))
    head.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(Text(view.run, style="bold"), _life(view.life))
    what = ", ".join(
        (view.model, view.precision, view.engine, view.space, view.strategy, view.task)
    )
    parts: list[RenderableType] = [head, Text(what, no_wrap=True, overflow="ellipsis"), Text()]
    parts += [_progress(view), Text(), _facts(view, console)]
    if view.workers:
        parts += [Text(), _workers(view.workers, num_rows)]
    return Group(*parts)


def sparkline(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """One character a value, from the lowest to the highest."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in values)


def _life(life: Life) -> Text:
    ago, on = duration(life.written_s), f" on {life.driver}" if life.driver else ""
    said = {
        "running": "running",
        "finished": "finished",
        "stopped": f"stopped {ago} ago, go on with --resume",
        "elsewhere": f"running{on}, wrote {ago} ago",
        "silent": f"nothing written for {ago}{on}",
    }
    return Text(said[life.state], style=LIFE_STYLES.get(life.state, TROUBLE))


def _progress(view: View) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 2))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_row(
        Text(f"generation {view.generation} of {view.generations}", style="bold"),
        ProgressBar(
            total=1.0,
            completed=view.share,
            complete_style=BAR,
            finished_style=BAR,
        ),
        f"{100 * view.share:.0f} %",
    )
    return line


def _facts(view: View, console: Console) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style=QUIET)
    facts.add_column(overflow="fold")
    facts.add_row("time", _time(view))
    if view.rewards:
        facts.add_row("reward", _reward(view, console))
    if view.heldout:
        facts.add_row("held out", _held_out(view.heldout, console.width))
    if view.tokens_per_s is not None:
        tokens = f"{amount(view.tokens_per_s)} a second, {amount(view.num_tokens)} in all"
        facts.add_row("tokens", tokens)
        facts.add_row("failed", _failed(view))
    if view.usage:
        facts.add_row("workers", _usage(view))
    return facts


def _time(view: View) -> str:
    if not view.rewards:
        return "no generation yet"
    parts = []
    if view.generation_s is not None:
        parts.append(f"{duration(view.generation_s)} a generation")
    if view.left_s is not None and view.life.state in ("running", "elsewhere"):
        parts.append(f"{duration(view.left_s)} left")
    return ", ".join([*parts, f"{duration(view.wall_s)} so far"])


def _reward(view: View, console: Console) -> Text:
    width = min(LONGEST_SPARKLINE, console.width - BESIDE_SPARKLINE)
    latest = view.rewards[-max(1, width) :]
    spread = f" +-{view.reward_std:.3f}" if view.reward_std is not None else ""
    line = sparkline(latest, ascii_only=console.options.ascii_only)
    between = f"{min(latest):.3f} to {max(latest):.3f}"
    return Text.assemble(f"{latest[-1]:.3f}{spread}  ", (line, "cyan"), (f"  {between}", QUIET))


def _held_out(heldout: Sequence[HeldOut], width: int) -> Text:
    num_shown = max(2, (width - BESIDE_HELD_OUT) // HELD_OUT_WIDTH)
    best = max(heldout, key=_headline)
    shown = [_scored(evaluation) for evaluation in heldout]
    if len(shown) > num_shown:
        shown = [shown[0], "..", *shown[1 - num_shown :]]
    return Text.assemble("  ".join(shown), ("  best ", QUIET), _scored(best))


def _headline(evaluation: HeldOut) -> float:
    return evaluation.reward if evaluation.pass_rate is None else evaluation.pass_rate


def _scored(evaluation: HeldOut) -> str:
    rate = evaluation.pass_rate
    score = f"{evaluation.reward:.3f}" if rate is None else f"{100 * rate:.1f} %"
    return f"{score} ({evaluation.generation})"


def _failed(view: View) -> Text:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in view.failures.items())
    told = f"{view.num_failed:,} of {view.num_completions:,}"
    told += f" ({reasons})" if reasons else ""
    style = FAILURE if view.num_failed else ""
    return Text.assemble((told, style), f", {view.num_failed_in_all:,} in all")


def _usage(view: View) -> Text:
    def count(name: str) -> str:
        return f"{view.usage.get(name, 0):,.0f}"

    idle = view.usage.get("idle_share")
    return Text(
        f"{count('ready')} of {len(view.workers)} ready, "
        + ("" if idle is None else f"{100 * idle:.0f} % idle, ")
        + f"queue {count('queue_max')}, retries {count('num_retries')}, "
        f"copies {count('num_copies')}, dropped {count('num_dropped')}"
    )


def _workers(workers: Sequence[WorkerView], num_rows: int | None) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False, header_style=QUIET)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("host", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("state", no_wrap=True)
    for name in ("tok/s", "busy", "chunks", "starts"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last problem", no_wrap=True, overflow="ellipsis", ratio=1)
    num_left = 0 if num_rows is None or len(workers) <= num_rows else len(workers) - num_rows + 1
    shown = sorted(workers, key=_urgency)[:-num_left] if num_left else workers
    names = _host_names({worker.host for worker in workers})
    for worker in shown:
        table.add_row(*_cells(worker, names[worker.host]))
    if not num_left:
        return table
    return Group(table, Text(f"and {num_left} more that are faster", style=QUIET))


def _urgency(worker: WorkerView) -> tuple[bool, float]:
    """What is not ready first, then what is slow."""
    speed = float("inf") if worker.tokens_per_s is None else worker.tokens_per_s
    return (worker.state == "ready", speed)


def _host_names(hosts: Collection[str]) -> dict[str, str]:
    """What to call each host: without its domain, where that still tells them apart."""
    short = {host: host if host[:1].isdigit() else host.partition(".")[0] for host in hosts}
    return short if len(set(short.values())) == len(hosts) else {host: host for host in hosts}


def _cells(worker: WorkerView, host: str) -> list[Text]:
    speed, busy = worker.tokens_per_s, worker.busy_share
    return [
        Text(str(worker.worker)),
        Text(host or "-"),
        Text(worker.state, style=STATE_STYLES.get(worker.state, TROUBLE)),
        Text("-" if speed is None else amount(speed)),
        Text("-" if busy is None else f"{100 * busy:.0f} %"),
        Text(str(worker.num_chunks)),
        Text(str(worker.num_starts)),
        Text(worker.problem, style=TROUBLE),
    ]


def _live(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False)


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys arrive at once and unseen, not line by line, where stdin is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed(wait_s: float) -> bytes:
    """Keys that are pressed within so many seconds."""
    if not sys.stdin.isatty():
        time.sleep(wait_s)
        return b""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return os.read(sys.stdin.fileno(), KEYS_AT_ONCE) if ready else b""
