"""Sums up a comparison: comparison.json, a table in Markdown, and the plots."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from es_align.bootstrap import interval_of, paired_gain, resampled_means
from es_align.budget import share_spent
from es_align.compare.comparison import Comparison, Difference, JobReport, Score, SeedsReport
from es_align.compare.config import CompareConfig, HeldoutScore
from es_align.compare.jobs import Job, choices
from es_align.compare.plots import write_plots
from es_align.compare.records import Point, Result, known_score, rank
from es_align.compare.table import table
from es_align.sealed import replace_file
from es_align.terminal import to_json

JSON_FILE, TABLE_FILE, PLOTS = "comparison.json", "comparison.md", "plots"
BOOTSTRAP_SAMPLES = 10_000
NEARLY_ALL = 0.98  # of a budget

Done = Sequence[tuple[Job, Result]]


def compared(config: CompareConfig, done: Done, failed: Mapping[str, str]) -> Comparison:
    """Sum up the jobs that are done."""
    score = known_score((point for _, result in done for point in result.points), config.score)
    num_jobs = sum(len(choices(arm)) + len(config.seeds) - 1 for arm in config.arms.values())
    return Comparison(
        config=config.model_dump(mode="json"),
        score=score,
        num_left=num_jobs - len(done),
        failed=failed,
        arms=tuple(_job(config, job, result, score) for job, result in done),
        over_seeds=tuple(_over_seeds(done, score)),
        differences=tuple(_differences(config, done, score)),
        notes=(*_edges(config, done, score), *_short(config, done), *_unscored(done)),
    )


def write_report(comparison: Comparison, done: Done, folder: Path) -> None:
    """comparison.json, comparison.md and plots/ in a folder."""
    tree = to_json(asdict(comparison))
    replace_file(folder / JSON_FILE, (json.dumps(tree, indent=1) + "\n").encode())
    replace_file(folder / TABLE_FILE, table(comparison).encode())
    if done:
        write_plots(done, folder / PLOTS, comparison.score)


def _job(config: CompareConfig, job: Job, result: Result, score: HeldoutScore) -> JobReport:
    gain = paired_gain(
        result.first.scores(score),
        result.best.scores(score),
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
        budget_share=share_spent(config.budget, spent),
        num_updates=result.last.step,
        num_evaluations=len(result.points) - 1,
        peak_rss_bytes=taken.peak_rss_bytes,
        imports_rss_bytes=taken.imports_rss_bytes,
        beyond_imports_bytes=taken.beyond_imports_bytes,
        peak_gpu_bytes=taken.peak_gpu_bytes,
        drift=result.drift,
        machine=result.machine,
        curve=tuple(map(_score, result.points)),
    )


def _score(point: Point) -> Score:
    return Score(
        point.step,
        point.reward,
        point.pass_rate,
        *point.spent,
        num_unscored=point.num_unscored,
        metrics=point.metrics,
        reasons=point.reasons,
    )


def _over_seeds(done: Done, score: HeldoutScore) -> Iterator[SeedsReport]:
    for label in dict.fromkeys(job.label for job, _ in done):
        of_label = [(job, result) for job, result in done if job.label == label]
        finals = [result.last.mean(score) for _, result in of_label]
        bests = [result.best.mean(score) for _, result in of_label]
        yield SeedsReport(
            label=label,
            arm=of_label[0][0].arm,
            num_seeds=len(of_label),
            final=float(np.mean(finals)),
            final_range=(float(np.min(finals)), float(np.max(finals))),
            best=float(np.mean(bests)),
            best_range=(float(np.min(bests)), float(np.max(bests))),
        )


def _differences(config: CompareConfig, done: Done, score: HeldoutScore) -> Iterator[Difference]:
    chosen = best_choices(done, score)
    kinds = {name: arm.kind for name, arm in config.arms.items()}
    for es in (name for name in kinds if kinds[name] == "es"):
        for grpo in (name for name in kinds if kinds[name] == "grpo"):
            ours, theirs = chosen.get(es, {}), chosen.get(grpo, {})
            seeds = [seed for seed in ours if seed in theirs]
            both = [(ours[seed], theirs[seed]) for seed in seeds]
            if not both:  # one of them has not begun
                continue
            best, best_ci95 = _less([(one.best, other.best) for one, other in both], score)
            final, final_ci95 = _less([(one.last, other.last) for one, other in both], score)
            yield Difference(
                es,
                grpo,
                best=best,
                best_ci95=best_ci95,
                best_by_seed={
                    seed: one.best.mean(score) - other.best.mean(score)
                    for seed, (one, other) in zip(seeds, both, strict=True)
                },
                final=final,
                final_ci95=final_ci95,
                memory_ratio=float(np.mean([_memory_ratio(*pair) for pair in both])),
                num_seeds=len(both),
            )


def _edges(config: CompareConfig, done: Done, score: HeldoutScore) -> Iterator[str]:
    """Swept numbers whose best is the lowest or the highest that was tried."""
    for name, arm in config.arms.items():
        tried = _tried(done, name)
        if len(tried) < len(choices(arm)):  # those to come, or that failed, may be better
            continue
        chosen = best_choice(tried, score)
        for key, values in arm.sweep.items():
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(numbers) > 1 and chosen[key] in (min(numbers), max(numbers)):
                yield (
                    f"{name}: {key} {chosen[key]:g} is best and at the edge of its sweep, so a "
                    "better one may lie beyond."
                )


def _short(config: CompareConfig, done: Done) -> Iterator[str]:
    """Jobs that ended by themselves, well before the budget was spent."""
    for job, result in done:
        share = share_spent(config.budget, result.last.spent)
        if share < NEARLY_ALL:
            yield f"{job.name} ended with {100 * share:.0f} % of its budget spent."


def _unscored(done: Done) -> Iterator[str]:
    """Jobs that left held-out prompts without a score."""
    for job, result in done:
        most = max(point.num_unscored for point in result.points)
        if most:
            yield (
                f"{job.name}: up to {most} held-out prompts have no score (why is in "
                "comparison.json) and are left out of its scores."
            )


def best_choice(tried: Done, score: HeldoutScore) -> Mapping[str, JsonValue]:
    """The swept settings whose best held-out score is highest, the first of equals."""
    return max(tried, key=lambda pair: rank(pair[1].best, score))[0].choice


def best_choices(done: Done, score: HeldoutScore) -> dict[str, dict[int, Result]]:
    """Of each arm by seed, the results of the swept settings that went on to every seed."""
    found: dict[str, dict[int, Result]] = {}
    for arm in dict.fromkeys(job.arm for job, _ in done):
        choice = best_choice(_tried(done, arm), score)
        found[arm] = {
            job.seed: result for job, result in done if job.arm == arm and job.choice == choice
        }
    return found


def _tried(done: Done, arm: str) -> Done:
    """The jobs of an arm's first seed, on which its sweep is tried."""
    of_arm = [(job, result) for job, result in done if job.arm == arm]
    return [(job, result) for job, result in of_arm if job.seed == of_arm[0][0].seed]


def _less(
    pairs: Sequence[tuple[Point, Point]], score: HeldoutScore
) -> tuple[float, tuple[float, float]]:
    """Mean difference over seeds and prompts, with its interval."""
    difference_SP = np.stack([one.scores(score) - other.scores(score) for one, other in pairs])
    drawn_N1 = resampled_means(difference_SP[:, :, None], samples=BOOTSTRAP_SAMPLES, seed=0)
    low_1, high_1 = interval_of(drawn_N1)
    mean = np.nanmean(difference_SP) if np.isfinite(difference_SP).any() else np.nan
    return float(mean), (float(low_1[0]), float(high_1[0]))


def _memory_ratio(one: Result, other: Result) -> float:
    return one.footprint.beyond_imports_bytes / other.footprint.beyond_imports_bytes
