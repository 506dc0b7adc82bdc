"""The run: ask, evaluate, tell, record, until the generations are done.

Everything a generation needs to be rebuilt is on disk before the next one starts. The loop holds no
try/except: what goes wrong with one completion is a counted reason, what goes wrong with a worker
is the pool's business, and anything else ends the run with every finished generation safe.
"""

import time
from collections.abc import Sequence

import numpy as np

from es_align.config import Config
from es_align.config_search import StrategyConfig
from es_align.errors import WorkerError
from es_align.evaluation import Evaluation, evaluation_of
from es_align.fitness import CENTRINGS, break_ties, centre_prompts
from es_align.progress import GenerationLine, Reporter
from es_align.rollout import Rollout, run_base_copies, run_one, run_population
from es_align.schedules import sigma_at
from es_align.session import Run
from es_align.strategies import Update
from es_align.tasks import Task
from workers.members import beside_mean
from workers.pool import Pool
from workers.protocol import LOG_LIKELIHOOD
from workers.ray_metrics import RayMetrics

CANARY_MEMBERS = 2
MAX_NAMES_SHOWN = 3
MAX_DOUBLINGS = 128


def run_generations(
    run: Run, task: Task, pool: Pool, config: Config, reporter: Reporter
) -> tuple[float | None, float]:
    """Evaluate, evolve and evaluate; returns the noise floor and the driver's own seconds."""
    run.record_usage(run.completed, pool.usage())
    ray_metrics = RayMetrics(run.folder.path.resolve().name, reporter.note)
    check_hooks(run, task, pool)
    noise_floor = measure_noise_floor(task, pool, config)
    evaluate_if_due(run, task, pool, config)
    driver_s = 0.0
    while not run.is_over:
        generation = run.completed
        started = time.perf_counter()
        population = run.strategy.ask(generation)
        prompt_ids = tuple(prompt.prompt_id for prompt in task.batch(generation))
        asked = time.perf_counter()
        rollout = run_population(pool, config, population, prompt_ids)
        answered, usage = time.perf_counter(), pool.usage()
        run.record_usage(generation + 1, usage)
        ray_metrics.publish(generation + 1, usage)
        fitness_M = fitness_of(rollout, config.strategy)
        metrics = rollout_metrics(rollout, fitness_M, answered - asked, noise_floor)
        metrics |= usage.metrics
        with run.kept_if_refused(generation, rollout, metrics):
            update = run.strategy.tell(population, fitness_M)
        told = time.perf_counter()
        update = run.moved(update, None if update.move is None else pool.move(update.move))
        metrics |= update_metrics(update, time.perf_counter() - told)
        run.record_generation(fitness_M, prompt_ids, rollout, update, metrics)
        if run.is_mean_due:
            pool.store_mean()
        overhead = (asked - started) + (time.perf_counter() - answered)
        driver_s += overhead
        evaluation = evaluate_if_due(run, task, pool, config)
        reporter.generation(
            GenerationLine(
                generation=generation + 1,
                generations=config.generations,
                wall_s=answered - asked + overhead,
                fitness_mean=metrics["reward/mean"],
                fitness_std=metrics["fitness/std"],
                noise_floor_std=noise_floor,
                eval_score=None if evaluation is None else _headline(evaluation),
                num_failed=rollout.num_failed,
                num_completions=rollout.num_completions,
                tokens_per_s=metrics["tokens/per_s"],
            )
        )
    return noise_floor, driver_s


def fitness_of(rollout: Rollout, strategy: StrategyConfig) -> np.ndarray:
    """Fitness of each member, float64 (M,), NaN for one without any score: the average of its
    prompts' scores, and with `tie_break` ties broken by likelihood.
    """
    fitness_M = CENTRINGS[strategy.centring](rollout.rewards_MP)
    if strategy.tie_break == 0:
        return fitness_M
    likelihood_M = centre_prompts(rollout.metrics_MP[LOG_LIKELIHOOD])
    return break_ties(fitness_M, likelihood_M, strategy.tie_break)


def check_hooks(run: Run, task: Task, pool: Pool) -> None:
    """Raise WorkerError unless both members of a pair differ from the mean in every hooked layer,
    with the least sigma that the run's schedule still has.
    """
    members = run.strategy.ask(run.completed).members
    config = run.config.strategy
    sigmas = [sigma_at(config, now, run.config.generations) for now in remaining(run)]
    least = min(sigmas, default=config.sigma)
    scale = least / sigmas[0] if sigmas else 1.0

    def untouched(member: int, scale: float) -> list[str]:
        both = beside_mean(members, member, run.mean_member(), scale)
        return pool.canary(both, task.train[0].prompt_id)

    for member in range(CANARY_MEMBERS):
        lost = untouched(member, scale)
        if not lost:
            continue
        factors = (2.0**doublings for doublings in range(1, MAX_DOUBLINGS))
        acting = (factor for factor in factors if not untouched(member, scale * factor))
        factor = next(acting, None)
        raise WorkerError(
            f"{len(lost)} hooked layers give the mean's own output for a member, first "
            f"{', '.join(lost[:MAX_NAMES_SHOWN])}: strategy.sigma={least:g} vanishes in "
            f"precision={run.config.precision}; "
            + (
                "and so does any larger one, so a hook is lost: please report it"
                if factor is None
                else f"use a sigma of {least * factor:.2g} or more at every generation"
            )
        )


def remaining(run: Run) -> range:
    """The generations to come, if the budget lasts."""
    return range(run.completed, run.config.generations)


def measure_noise_floor(task: Task, pool: Pool, config: Config) -> float | None:
    """Spread of fitness over copies of the unperturbed model:
    what the engine's own noise amounts to.
    """
    if config.evaluation.noise_floor_repeats == 0:
        return None
    prompt_ids = [prompt.prompt_id for prompt in task.batch(0)]
    copies = run_base_copies(pool, config, 1 + config.evaluation.noise_floor_repeats, prompt_ids)
    return _spread(centre_prompts(copies.rewards_MP))


def evaluate_if_due(run: Run, task: Task, pool: Pool, config: Config) -> Evaluation | None:
    """Evaluate the mean on the held-out prompts where the configuration asks for it, once."""
    done, every = run.completed, config.evaluation.every
    is_due = done == 0 or run.is_over or (every > 0 and done % every == 0)
    if not is_due:
        return None
    known = run.evaluation_at(done)
    if known is not None:
        return known
    evaluation = evaluate_mean(run, task, pool, config)
    run.record_evaluation(evaluation)
    return evaluation


def evaluate_mean(run: Run, task: Task, pool: Pool, config: Config) -> Evaluation:
    """The mean on the held-out prompts; before the first generation, the model as it was given.

    With basis `adapter` that is the adapter, with `quantisation_error` the repaired model: where
    the mean starts. Nothing is compared with a bare base.
    """
    prompt_ids = [prompt.prompt_id for prompt in task.heldout]
    mean = run.mean_member()
    rollout = run_one(pool, config, mean, prompt_ids, generation=run.completed, with_samples=True)
    run.folder.append_samples(run.completed, rollout.samples)
    return evaluation_of(rollout, run.completed)


def rollout_metrics(
    rollout: Rollout, fitness_M: np.ndarray, evaluate_s: float, noise_floor: float | None
) -> dict[str, float]:
    """Of a row of metrics.jsonl, what the members did; seconds, counts, and rewards in the reward's
    own unit.
    """
    reward_M = rollout.reward_mean_M
    per_second = rollout.num_generated_tokens / evaluate_s
    return {
        "reward/mean": float(np.nanmean(reward_M)),
        "reward/best": float(np.nanmax(reward_M)),
        "reward/std": float(np.nanstd(reward_M)),
        "reward/pass_rate": _mean(rollout.passed_MP),
        "fitness/std": _spread(fitness_M),
        "noise_floor/std": float("nan") if noise_floor is None else noise_floor,
        "completions": rollout.num_completions,
        "failed": rollout.num_failed,
        "reward/num_missing": int(np.isnan(rollout.rewards_MP).sum()),
        "tokens/total": rollout.num_generated_tokens,
        "tokens/prompt": rollout.num_prompt_tokens,
        "tokens/per_s": per_second,
        "time/evaluate_s": evaluate_s,
        "time/generate_s": rollout.generate_s,
        "time/score_s": rollout.score_s,
        **{f"reason/{reason}": count for reason, count in rollout.reasons.items()},
        **{f"metric/{name}": float(np.nanmean(t)) for name, t in rollout.metrics_MP.items()},
    }


def update_metrics(update: Update, move_s: float) -> dict[str, float]:
    """Of a row of metrics.jsonl, what the strategy made of it; seconds that the workers took to
    move a mean that they hold.
    """
    return {
        "time/move_s": move_s,
        "update/step_norm": update.step_norm,
        "update/sigma": update.sigma,
        "update/num_excluded": update.num_excluded,
    }


def _headline(evaluation: Evaluation) -> float:
    """The pass rate, or the mean reward where the reward has no verdict."""
    rate = evaluation.pass_rate
    return rate if np.isfinite(rate) else evaluation.reward


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _spread(values: Sequence[float] | np.ndarray) -> float:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.std()) if len(finite) else float("nan")
