"""What a comparison came to: comparison.json, a table in Markdown, and the plots.

Per job the scores before, at the end and at the best evaluation, what it took, and its drift. Of
each ES arm against each GRPO arm the differences of final and best scores, with a bootstrap
interval over held-out prompts, each with all its seeds; a GRPO arm is represented by the best of
its sweep. Best is the maximum over evaluations, of every arm alike, so it flatters all of them.
"""

import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from es_align.bootstrap import paired_gain
from es_align.compare.config import CompareConfig, HeldoutScore
from es_align.compare.curves import paired_scores
from es_align.compare.jobs import Job
from es_align.compare.plots import GIB, write_plots
from es_align.compare.records import Drift, Point, Result
from es_align.evaluation import or_least
from es_align.sealed import replace_file
from es_align.session import versions
from es_align.terminal import to_json
from kernels.processor import read_processor

JSON_FILE, TABLE_FILE, PLOTS = "comparison.json", "comparison.md", "plots"
BOOTSTRAP_SAMPLES = 10_000

Done = Sequence[tuple[Job, Result]]


@dataclass(frozen=True, slots=True)
class Score:
    """On the held-out prompts, greedy."""

    step: int
    reward: float
    pass_rate: float
    seconds: float  # of training until then
    completions: int
    tokens: int


@dataclass(frozen=True, slots=True)
class JobReport:
    """One arm with one seed."""

    name: str
    label: str
    arm: str
    kind: str
    seed: int
    choice: Mapping[str, object]
    before: Score
    final: Score
    best: Score
    gain: float  # best less before
    gain_ci95: tuple[float, float]
    completions: int
    tokens: int
    train_s: float
    wall_s: float
    device_s: float
    peak_rss_bytes: int
    imports_rss_bytes: int
    beyond_imports_bytes: int
    peak_gpu_bytes: int
    drift: Drift
    curve: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """An ES arm less a GRPO arm, over the seeds that both have."""

    es: str
    grpo: str
    best: float  # of the scores, means over seeds
    best_ci95: tuple[float, float]
    final: float
    final_ci95: tuple[float, float]
    memory_ratio: float  # of peak memory beyond imports
    num_seeds: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it."""

    date: str
    hardware: str
    versions: Mapping[str, str]
    config: Mapping[str, object]
    score: HeldoutScore
    arms: tuple[JobReport, ...]
    differences: tuple[Difference, ...]


def compared(config: CompareConfig, done: Done) -> Comparison:
    """Sum up the jobs that are done."""
    processor = read_processor()
    return Comparison(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=f"{processor.name}, {os.cpu_count()} cores, {platform.system()}",
        versions=versions(),
        config=config.model_dump(mode="json"),
        score=config.score,
        arms=tuple(_job(job, result, config.score) for job, result in done),
        differences=tuple(_differences(config, done)),
    )


def write_report(comparison: Comparison, done: Done, folder: Path) -> None:
    """comparison.json, comparison.md and plots/ in a folder."""
    tree = to_json(asdict(comparison))
    replace_file(folder / JSON_FILE, (json.dumps(tree, indent=1) + "\n").encode())
    replace_file(folder / TABLE_FILE, table(comparison).encode())
    write_plots(done, folder / PLOTS, comparison.score)


def table(comparison: Comparison) -> str:
    """In Markdown."""
    head = (
        "arm",
        "seed",
        "before",
        "final",
        "best",
        "gain, points",
        "completions",
        "tokens",
        "training, min",
        "device, min",
        "peak memory, GiB",
        "beyond imports, GiB",
        "KL, nats a token",
        "untouched",
    )
    rows = [
        head,
        tuple("---" for _ in head),
        *(_row(job, comparison.score) for job in comparison.arms),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    told = [
        f"{d.es} less {d.grpo}: best {100 * d.best:+.1f} points {_interval(d.best_ci95)}, final "
        f"{100 * d.final:+.1f} {_interval(d.final_ci95)}, memory beyond imports "
        f"{d.memory_ratio:.2f} of it, {d.num_seeds} seed(s)."
        for d in comparison.differences
    ]
    return "\n".join([*lines, "", *told, ""])


def _row(job: JobReport, score: HeldoutScore) -> tuple[str, ...]:
    drift = job.drift
    before, after = drift.untouched_before, drift.untouched_after
    return (
        job.label,
        str(job.seed),
        f"{100 * _headline(job.before, score):.1f} %",
        f"{100 * _headline(job.final, score):.1f} %",
        f"{100 * _headline(job.best, score):.1f} %",
        f"{100 * job.gain:+.1f} {_interval(job.gain_ci95)}",
        f"{job.completions:,}",
        f"{job.tokens:,}",
        f"{job.train_s / 60:.1f}",
        f"{job.device_s / 60:.1f}",
        f"{job.peak_rss_bytes / GIB:.2f}",
        f"{job.beyond_imports_bytes / GIB:.2f}",
        f"{drift.kl_per_token:.3f}",
        "" if before is None or after is None else f"{100 * before:.1f} to {100 * after:.1f} %",
    )


def _job(job: Job, result: Result, score: HeldoutScore) -> JobReport:
    gain = paired_gain(
        paired_scores(result.first, score),
        paired_scores(result.best, score),
        samples=BOOTSTRAP_SAMPLES,
        seed=job.seed,
    )
    taken, spent = result.footprint, result.last.spent
    return JobReport(
        name=job.name,
        label=job.label,
        arm=job.arm,
        kind=job.kind,
        seed=job.seed,
        choice=job.choice,
        before=_score(result.first),
        final=_score(result.last),
        best=_score(result.best),
        gain=gain.gain,
        gain_ci95=(gain.low, gain.high),
        completions=spent.completions,
        tokens=spent.tokens,
        train_s=spent.seconds,
        wall_s=result.wall_s,
        device_s=result.device_s,
        peak_rss_bytes=taken.peak_rss_bytes,
        imports_rss_bytes=taken.imports_rss_bytes,
        beyond_imports_bytes=taken.beyond_imports_bytes,
        peak_gpu_bytes=taken.peak_gpu_bytes,
        drift=result.drift,
        curve=tuple(map(_score, result.points)),
    )


def _score(point: Point) -> Score:
    return Score(point.step, point.reward, point.pass_rate, *point.spent)


def _headline(found: Score, score: HeldoutScore) -> float:
    has_verdicts = score == "pass_rate" and np.isfinite(found.pass_rate)
    return found.pass_rate if has_verdicts else found.reward


def _differences(config: CompareConfig, done: Done) -> Iterator[Difference]:
    best = best_choices(done)
    kinds = {name: arm.kind for name, arm in config.arms.items()}
    for es in (name for name in kinds if kinds[name] == "es"):
        for grpo in (name for name in kinds if kinds[name] == "grpo"):
            ours, theirs = best.get(es, {}), best.get(grpo, {})
            both = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
            if not both:  # one of them has not begun
                continue
            yield Difference(
                es,
                grpo,
                *_less([(one.best, other.best) for one, other in both], config.score),
                *_less([(one.last, other.last) for one, other in both], config.score),
                memory_ratio=float(np.mean([_memory_ratio(*pair) for pair in both])),
                num_seeds=len(both),
            )


def best_choice(tried: Done) -> Mapping[str, JsonValue]:
    """The swept settings whose best held-out reward is highest, the first of equals."""
    return max(tried, key=lambda pair: or_least(pair[1].best.reward))[0].choice


def best_choices(done: Done) -> dict[str, dict[int, Result]]:
    """Of each arm by seed, the results of the swept settings that went on to every seed."""
    found: dict[str, dict[int, Result]] = {}
    for arm in dict.fromkeys(job.arm for job, _ in done):
        of_arm = [(job, result) for job, result in done if job.arm == arm]
        first = of_arm[0][0].seed
        tried = [(job, result) for job, result in of_arm if job.seed == first]
        choice = best_choice(tried)
        found[arm] = {job.seed: result for job, result in of_arm if job.choice == choice}
    return found


def _less(
    pairs: Sequence[tuple[Point, Point]], score: HeldoutScore
) -> tuple[float, tuple[float, float]]:
    """Mean difference over seeds and prompts; prompts are resampled, each with all its seeds."""
    difference_SP = np.stack(
        [paired_scores(one, score) - paired_scores(other, score) for one, other in pairs]
    )
    per_prompt_P = np.nanmean(difference_SP, axis=0)
    gain = paired_gain(np.zeros_like(per_prompt_P), per_prompt_P, samples=BOOTSTRAP_SAMPLES, seed=0)
    return gain.gain, (gain.low, gain.high)


def _memory_ratio(one: Result, other: Result) -> float:
    return one.footprint.beyond_imports_bytes / other.footprint.beyond_imports_bytes


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"
