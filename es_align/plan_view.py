"""A plan as a person reads it."""

from rich.table import Table
from rich.text import Text

from es_align.plan import PlanResult
from es_align.plan_simulation import Prediction

UNITS = ("B", "kB", "MB", "GB", "TB")


def plan_table(plan: PlanResult) -> Table:
    """One line a matter; measured and estimated are said."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in _lines(plan):
        table.add_row(name, Text(text))
    return table


def _lines(plan: PlanResult) -> list[tuple[str, str]]:
    memory, wire, configured = plan.memory_bytes, plan.wire_bytes, plan.configured
    samples = f" x {plan.samples_per_prompt} samples" if plan.samples_per_prompt > 1 else ""
    lines = [
        ("model", f"{plan.model}, {plan.precision}, {plan.parameters / 1e6:,.1f} M parameters"),
        (
            "generation",
            f"{plan.population:,} members x {plan.prompts_per_generation} prompts{samples} = "
            f"{plan.completions:,} completions; space {plan.space}, {plan.dimension:,} numbers",
        ),
        (
            "memory",
            f"{_size(memory.weights)} weights + {_size(memory.kv_cache)} cache + "
            f"{_size(memory.population)} population + {_size(memory.master)} mean on the host = "
            f"{_size(plan.memory_bytes_total)} a worker, processes not counted",
        ),
        (
            "network",
            f"{_size(wire.chunks)} chunks + {_size(wire.prompt_ids)} prompt ids + "
            f"{_size(wire.vectors)} vectors + {_size(wire.scores)} scores + "
            f"{_size(wire.moves)} moves a generation",
        ),
        (
            "speed",
            f"{plan.tokens_per_s_worker:,.0f} tokens/s a worker, {plan.speed_kind}: "
            f"{plan.speed_origin}",
        ),
        (f"{plan.workers:,} workers", _told(configured)),
    ]
    best = plan.recommended
    if best is not None and best == configured:
        lines.append(("recommended", "these chunks"))
    elif best is not None:
        lines.append(("recommended", _told(best)))
    return [*lines, *(("note", note) for note in plan.notes)]


def _told(found: Prediction) -> str:
    move = f" ({found.move_s:.1f} s of it moving the mean)" if found.move_s >= 0.05 else ""
    smallest = "" if found.smallest_chunk is None else f", smallest_chunk={found.smallest_chunk}"
    return (
        f"workers.members_per_chunk={found.members_per_chunk}{smallest}: "
        f"{found.num_chunks:,} chunks, {found.seconds:,.1f} s a generation{move}, "
        f"{found.tokens_per_s:,.0f} tokens/s; workers busy {found.efficiency:.0%}, "
        f"engines' places filled {found.occupancy:.0%}"
    )


def _size(num_bytes: float) -> str:
    """`1.07 GB`, in powers of 1000."""
    power = 0
    while num_bytes >= 1000 and power < len(UNITS) - 1:
        num_bytes, power = num_bytes / 1000, power + 1
    return f"{num_bytes:.0f} {UNITS[power]}" if power == 0 else f"{num_bytes:.3g} {UNITS[power]}"
