"""`es-align bench population`: unmodified vLLM, the population and stock multi-LoRA, side by side.

All arms answer the same requests in turns (`es_align.bench.rounds`); tokens per second count
generated tokens over the wall time of the whole generate call. Every repeat has members of its own,
as every generation of a run does; the time until they are ready is a figure of its own.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from es_align.bench.arms import OpenArms, open_arms
from es_align.bench.hardware import Hardware, find_hardware
from es_align.bench.prompts import make_requests
from es_align.bench.rounds import BASE, POPULATION, STOCK, Arm, Repeat, Rounds, run_rounds
from es_align.bench.settings import BenchSettings
from es_align.versions import versions

LABELS = {BASE: "unmodified vLLM", POPULATION: "population", STOCK: "stock multi-LoRA"}
NOT_ASKED = "left out by --no-stock"


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Medians over the repeats; ratios are to the base of the same repeat."""

    base_tok_s: float
    population_tok_s: float
    ratio: float
    ratio_min: float
    ratio_max: float
    stock_lora_tok_s: float | None
    stock_ratio: float | None
    stock_ratio_min: float | None
    stock_ratio_max: float | None
    stock_reason: str | None  # why there is no figure
    population_change_s: float  # until a generation's members are ready
    stock_change_s: float | None  # the same: adapters read from files, which are there already
    over_stock: float | None  # whole generations of the population in the time of one of stock's
    over_stock_min: float | None
    over_stock_max: float | None
    bytes_per_member: float
    stock_bytes_per_member: float | None
    changed_answers: int  # fewest of a repeat that differ from the base's: the members are there
    repeats: Sequence[Mapping[str, float]]  # tokens per second by arm, in the order they ran
    is_compiled: Mapping[str, bool]
    load_s: Mapping[str, float]
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    hardware: Hardware
    date: str


def bench_population(
    settings: BenchSettings, *, note: Callable[[str], None] = lambda line: None
) -> BenchResult:
    """Load the arms, measure, and end them; `note` is told how it goes, a line at a time.

    Raises ConfigError or ModelError before a model is loaded, WorkerError for an arm that dies,
    stays silent or answers what cannot be compared.
    """
    with open_arms(settings, note) as arms:
        return measure(arms, settings, note=note)


def measure(
    opened: OpenArms, settings: BenchSettings, *, note: Callable[[str], None] = lambda line: None
) -> BenchResult:
    """One cell on arms that are open; `settings.members` may be fewer than they have room for."""
    warm_up, *rounds = [
        make_requests(
            seed=settings.seed,
            round_index=index,
            members=settings.members,
            requests=settings.requests,
            prompt_tokens=settings.prompt_tokens,
            vocabulary=opened.facts.vocabulary,
        )
        for index in range(settings.repeats + 1)
    ]
    arms: list[Arm] = [arm for arm in opened.arms if settings.has_stock or arm.name != STOCK]
    done = run_rounds(arms, warm_up, rounds, settings.new_tokens, told=_tell(note))
    return _result(settings, opened, done)


def _tell(note: Callable[[str], None]) -> Callable[[int, Repeat], None]:
    def tell(index: int, repeat: Repeat) -> None:
        figures = ", ".join(f"{arm} {timing.tok_s:.1f}" for arm, timing in repeat.timings.items())
        note(f"repeat {index + 1}: {figures} tok/s")

    return tell


def _result(settings: BenchSettings, opened: OpenArms, done: Rounds) -> BenchResult:
    ratio, stock_ratio = done.ratio(POPULATION), done.ratio(STOCK)
    over_stock, change_s = done.over_stock(), done.change_s(POPULATION)
    starts = opened.starts
    base_tok_s, population_tok_s = done.tok_s(BASE), done.tok_s(POPULATION)
    bytes_per_member = starts[POPULATION].bytes_per_member
    changed = done.changed(POPULATION)
    assert ratio is not None and base_tok_s is not None and population_tok_s is not None
    assert bytes_per_member is not None and changed is not None and change_s is not None
    reasons = {**opened.failures, **done.failures}
    return BenchResult(
        base_tok_s=base_tok_s,
        population_tok_s=population_tok_s,
        ratio=ratio.median,
        ratio_min=ratio.low,
        ratio_max=ratio.high,
        stock_lora_tok_s=done.tok_s(STOCK),
        stock_ratio=None if stock_ratio is None else stock_ratio.median,
        stock_ratio_min=None if stock_ratio is None else stock_ratio.low,
        stock_ratio_max=None if stock_ratio is None else stock_ratio.high,
        stock_reason=reasons.get(STOCK) if settings.has_stock else NOT_ASKED,
        population_change_s=change_s,
        stock_change_s=done.change_s(STOCK),
        over_stock=None if over_stock is None else over_stock.median,
        over_stock_min=None if over_stock is None else over_stock.low,
        over_stock_max=None if over_stock is None else over_stock.high,
        bytes_per_member=bytes_per_member,
        stock_bytes_per_member=starts[STOCK].bytes_per_member if STOCK in starts else None,
        changed_answers=changed,
        repeats=[{str(arm): one.tok_s for arm, one in r.timings.items()} for r in done.repeats],
        is_compiled={name: start.is_compiled for name, start in starts.items()},
        load_s={name: start.load_s for name, start in starts.items()},
        settings={**asdict(settings), "threads": settings.num_threads},
        versions=versions(),
        hardware=find_hardware(),
        date=datetime.date.today().isoformat(),
    )


def result_table(result: BenchResult) -> Table:
    """The result for a person; what could not be measured has its reason in the caption."""
    settings = result.settings
    table = Table(
        title=(
            f"{settings['model']} in {settings['precision']}, {settings['space']} of rank "
            f"{settings['rank']}: {settings['members']} members, {settings['requests']} requests "
            f"of {settings['new_tokens']} tokens"
        ),
        box=None,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("tok/s", "ratio", "min", "max", "new members", "ready in", "compiled"):
        table.add_column(heading, justify="right")
    table.add_row(LABELS[BASE], f"{result.base_tok_s:.1f}", "", "", "", "", *_start(result, BASE))
    table.add_row(
        LABELS[POPULATION],
        f"{result.population_tok_s:.1f}",
        *_figures(result.ratio, result.ratio_min, result.ratio_max),
        f"{result.population_change_s:.2f} s",
        *_start(result, POPULATION),
    )
    if result.stock_lora_tok_s is not None:
        table.add_row(
            LABELS[STOCK],
            f"{result.stock_lora_tok_s:.1f}",
            *_figures(result.stock_ratio, result.stock_ratio_min, result.stock_ratio_max),
            f"{result.stock_change_s:.2f} s",
            *_start(result, STOCK),
        )
    table.caption = _caption(result)
    return table


def _figures(*ratios: float | None) -> list[str]:
    return ["" if ratio is None else f"{ratio:.3f}" for ratio in ratios]


def _start(result: BenchResult, arm: str) -> tuple[str, str]:
    return f"{result.load_s[arm]:.1f} s", "yes" if result.is_compiled[arm] else "no"


def _caption(result: BenchResult) -> str:
    lines = [
        f"medians of {len(result.repeats)}; {result.bytes_per_member:,.0f} bytes a member; "
        f"{result.changed_answers} of {result.settings['requests']} answers not the base's",
        f"{result.date}, {result.hardware}",
    ]
    if result.over_stock is not None:
        lines.append(
            f"a generation with new members takes multi-LoRA {result.over_stock:.1f} times as long"
        )
    if result.stock_reason is not None:
        lines.append(f"{LABELS[STOCK]}: {result.stock_reason}")
    return "\n".join(lines)
