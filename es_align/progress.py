"""What a run says while it goes: a header, one dense line a generation, a table at the end.

The driver fills the small records below and knows nothing of terminals. Fitness is per member,
reward per completion; both are maximised.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from es_align.report.summary import Summary, amount, summary_table


@dataclass(frozen=True, slots=True)
class Header:
    """What a run is about to do."""

    model: str
    precision: str
    engine: str
    task: str
    space: str  # kind and basis: "singular_values (weight)"
    strategy: str
    dimension: int  # numbers of a member's vector
    generations: int
    first_generation: int  # 0, or where a resumed run goes on
    population: int
    prompts_per_generation: int
    workers: int
    run_dir: Path
    details: Mapping[str, str]  # further lines, such as {"basis": "210 layers"}
    samples_per_prompt: int = 1


@dataclass(frozen=True, slots=True)
class GenerationLine:
    """One generation that is over."""

    generation: int  # counts from 1: how many are done
    generations: int
    wall_s: float
    fitness_mean: float
    fitness_std: float  # spread over the population
    noise_floor_std: float | None  # the same spread of the unperturbed model; None: not measured
    eval_score: float | None  # held-out score of the mean, where it was evaluated
    num_failed: int  # completions without a score
    num_completions: int
    tokens_per_s: float

    def __str__(self) -> str:
        width = len(str(self.generations))
        parts = [
            f"gen {self.generation:>{width}}/{self.generations}",
            f"{self.wall_s:.1f}s",
            f"fitness {self.fitness_mean:.3f} +-{self.fitness_std:.3f}",
        ]
        if self.noise_floor_std is not None:
            parts.append(f"noise {self.noise_floor_std:.3f}")
        if self.eval_score is not None:
            parts.append(f"eval {self.eval_score:.3f}")
        parts.append(f"failed {self.num_failed}/{self.num_completions}")
        parts.append(f"{amount(self.tokens_per_s)} tok/s")
        return " | ".join(parts)


class Reporter(Protocol):
    """Who is told how a run goes. `close` is called last, after an error too."""

    def start(self, header: Header) -> None: ...

    def note(self, message: str) -> None:
        """A phase or an event, in one line."""
        ...

    def generation(self, line: GenerationLine) -> None: ...

    def finish(self, summary: Summary) -> None: ...

    def close(self) -> None: ...


class SilentReporter:
    """Says nothing: for tests, and for notebooks that look at the returned result."""

    def start(self, header: Header) -> None:
        del header

    def note(self, message: str) -> None:
        del message

    def generation(self, line: GenerationLine) -> None:
        del line

    def finish(self, summary: Summary) -> None:
        del summary

    def close(self) -> None:
        return None


class ConsoleReporter:
    """Plain lines; on a terminal also a bar below them."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._console = Console(
            file=sys.stderr if to_stderr else sys.stdout, highlight=False, soft_wrap=True
        )
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=2,  # the cores belong to the workers
        )

    def start(self, header: Header) -> None:
        for line in header_lines(header):
            self._say(line)
        if self._console.is_terminal:
            self._progress.add_task(
                "generations", total=header.generations, completed=header.first_generation
            )
            self._progress.start()

    def note(self, message: str) -> None:
        self._say(message)

    def generation(self, line: GenerationLine) -> None:
        self._say(str(line))
        for task in self._progress.tasks:
            self._progress.update(task.id, completed=line.generation)

    def finish(self, summary: Summary) -> None:
        self.close()
        self._console.print(summary_table(summary))

    def close(self) -> None:
        if self._progress.live.is_started:  # `stop` prints an empty line each time
            self._progress.stop()

    def _say(self, text: str) -> None:
        # Neither markup nor wrapping: prompts and paths hold brackets, and a log line is one line.
        self._console.print(text, markup=False)


def header_lines(header: Header) -> list[str]:
    """The header, with the totals that follow from the configuration."""
    num_samples = header.samples_per_prompt
    num_completions = header.population * header.prompts_per_generation * num_samples
    samples = f" x {num_samples} samples" if num_samples > 1 else ""
    left = header.generations - header.first_generation
    resumed = f" (from {header.first_generation + 1})" if header.first_generation else ""
    rows = {
        "model": f"{header.model}, {header.precision}, {header.engine} x {header.workers}",
        "task": header.task,
        "space": f"{header.space}, {header.dimension:,} numbers, {header.strategy}",
        "work": (
            f"{header.population} members x {header.prompts_per_generation} prompts"
            f"{samples} = "
            f"{num_completions:,} completions a generation, "
            f"{num_completions * left:,} in {left:,} generations{resumed}"
        ),
        **header.details,
        "run": str(header.run_dir),
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]
