"""`es-align eval`: a run, a model or an adapter on a task's held-out prompts."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from es_align.config import (
    NEW_TOKENS,
    Config,
    TaskConfig,
    heldout_new_tokens,
    heldout_task,
    only_tested,
    usual_new_tokens,
)
from es_align.config_loading import apply_overrides
from es_align.errors import ConfigError
from es_align.evaluation import Evaluation, evaluation_of, mean_evaluation, pass_rates_at
from es_align.pooling import make_pool
from es_align.preflight import validate
from es_align.progress import Reporter, SilentReporter
from es_align.responses import check_details, data_files, write_details
from es_align.results import EvalResult
from es_align.reward_checks import check_columns, has_likelihood
from es_align.reward_inputs import kept_rewards
from es_align.rollout import Rollout, run_samples
from es_align.run_folder import RunFolder
from es_align.scorecards import Scorecard, VerdictRow, figure_intervals, load_scorecard
from es_align.space_checks import check_run_settings
from es_align.targets import open_target, target_config
from es_align.task_checks import check_unseen
from es_align.tasks import BENCHMARKS, HeldOut, has_own_reward, make_heldout
from workers.cluster import joined
from workers.protocol import Sampling

# A prompt of IFEval has up to about 500 tokens; the default has no room for one and its answer.
MODEL_LENGTHS = {"ifeval": 2048}
# A chunk's prompts are decoded together, each to its length, on a slow machine at this rate.
DEADLINE_S_PER_TOKEN = 2.5


@dataclass(frozen=True, slots=True)
class Draws:
    """How answers are drawn."""

    temperature: float = 0.0  # 0: greedy
    samples: int = 1  # of each prompt

    def check(self) -> None:
        """Raise ConfigError for what makes no sense."""
        if not 0 <= self.temperature < math.inf or self.samples < 1:
            raise ConfigError(
                f"temperature={self.temperature:g} and samples={self.samples}: use 0 or more, and "
                "1 or more"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"samples={self.samples} at temperature 0 would give the same answer "
                f"{self.samples} times; set a temperature such as 0.7, or leave samples out"
            )

    def samplings(self, config: Config) -> list[Sampling]:
        """One a sample, each with a seed of its own."""
        greedy = Sampling(heldout_new_tokens(config))
        first = config.seed << 32
        return [
            replace(greedy, temperature=self.temperature, seed=first + sample)
            for sample in range(self.samples)
        ]


def evaluate(
    target: str,
    *,
    task: str | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    generation: int | None = None,
    temperature: float = 0.0,
    samples: int = 1,
    data: str | Path | None = None,
    details: str | Path | None = None,
    reporter: Reporter | None = None,
) -> EvalResult:
    """Score a run's best generation (or the one named), a model or a PEFT adapter on a task's
    held-out prompts: all of GSM8K's and IFEval's, or `limit`.

    A run brings its own configuration and the reward files kept in its folder, the others have the
    defaults; `overrides` such as `precision=int8` change either. Greedy, or `samples` answers at a
    `temperature`. `data` is the task's file or folder; `details` is written, one row a completion.
    Raises EsAlignError.
    """
    result, _ = evaluate_prompts(
        target,
        task=task,
        limit=limit,
        overrides=overrides,
        generation=generation,
        temperature=temperature,
        samples=samples,
        data=data,
        details=details,
        reporter=reporter,
    )
    return result


def evaluate_prompts(
    target: str,
    *,
    task: str | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    generation: int | None = None,
    temperature: float = 0.0,
    samples: int = 1,
    data: str | Path | None = None,
    details: str | Path | None = None,
    reporter: Reporter | None = None,
) -> tuple[EvalResult, Evaluation]:
    """As `evaluate`, with what each prompt came to, the mean of its samples."""
    reporter, draws = reporter or SilentReporter(), Draws(temperature, samples)
    draws.check()
    is_run = RunFolder(Path(target)).has_run
    own = target_config(target)
    # Quoted, since overrides are YAML, where `#` begins a comment and `~` is nothing.
    last = [] if data is None else [f"task.path={json.dumps(str(data), ensure_ascii=False)}"]
    last += [] if limit is None else [f"task.num_heldout={limit}"]
    tested = _on_task(own, task)
    is_rewarded = any(override.partition("=")[0].strip() == "reward" for override in overrides)
    if is_run and not is_rewarded:
        tested = kept_rewards(Path(target), tested)
    settings = apply_overrides(tested, [*overrides, *last])
    if details is not None:
        check_details(Path(details), data_files(settings.task.path))
    if is_run:
        check_run_settings(own, settings)
        check_unseen(own.task, settings.task)
    validate(settings, is_begun=is_run, is_trained=False)
    heldout = make_heldout(settings.task)
    columns, name = heldout.prompts[0].columns, f"task.name={heldout.name}"
    check_columns(settings, columns, name, heldout.reward_name)
    # Nothing is written where references are given, so there is no accuracy.
    has_figures = heldout.name in BENCHMARKS and not has_likelihood(settings)
    scorecard = load_scorecard(heldout.name, settings.task.path) if has_figures else None
    with joined(settings.workers.address):
        opened = open_target(target, settings, generation)
        at, started = opened.generation or 0, time.perf_counter()
        with make_pool(
            settings,
            opened.model,
            heldout.reward_name,
            opened.layers,
            heldout.prompts,
            opened.means,
        ) as pool:
            for worker in pool.start(opened.moves):
                opened.check(worker)
                reporter.note(
                    f"worker {worker.worker}: {worker.engine} ready in {worker.load_s:.1f} s"
                )
            ids = [prompt.prompt_id for prompt in heldout.prompts]
            samplings = draws.samplings(settings)
            rollouts = run_samples(
                pool, settings, opened.mean, ids, samplings, generation=at, with_samples=True
            )
    wall_s = time.perf_counter() - started
    rows = list(_detail_rows(heldout, scorecard, rollouts))
    if details is not None:
        write_details(Path(details), rows)
    figures = {} if scorecard is None else scorecard.figures(rows)
    evaluations = [evaluation_of(rollout, at) for rollout in rollouts]
    result = mean_evaluation(evaluations)
    told = EvalResult(
        target=target,
        task=heldout.name,
        precision=settings.precision,
        generation=opened.generation,
        temperature=temperature,
        samples=samples,
        reward=result.reward,
        pass_rate=result.pass_rate,
        pass_rate_ci95=result.pass_rate_ci95,
        n=result.num_prompts,
        figures=figures,
        intervals=(
            {} if scorecard is None else figure_intervals(scorecard, figures, result.num_prompts)
        ),
        pass_at=pass_rates_at(evaluations),
        metrics=result.metrics,
        reasons=result.reasons,
        wall_s=wall_s,
        tokens=sum(rollout.num_generated_tokens for rollout in rollouts),
    )
    return told, result


def _on_task(own: Config, name: str | None) -> Config:
    """The configuration with the task to be tested as its `task`, its whole test split if it has
    one. Another task than the trained one has its own reward, if any, and its own length of answer.
    """
    tested, new_tokens = _asked_task(own, name)
    is_other, tree = tested is not own.task, only_tested(own, tested, new_tokens)
    if tested.name in BENCHMARKS:
        tree["task"]["num_heldout"] = 0
    longest = max(own.workers.max_model_len, MODEL_LENGTHS.get(tested.name, 0))
    deadline_s = max(own.workers.chunk_deadline_s, DEADLINE_S_PER_TOKEN * new_tokens)
    tree["workers"] |= {"max_model_len": longest, "chunk_deadline_s": deadline_s}
    if (is_other and has_own_reward(tested)) or (tested.name in BENCHMARKS and has_likelihood(own)):
        tree["reward"] = []
    return Config.model_validate(tree)


def _asked_task(own: Config, name: str | None) -> tuple[TaskConfig, int]:
    """The task of that name, with the configuration's settings where it has any, and the length of
    an answer; None is the one it is tested on. Raises ConfigError for an unknown name.
    """
    tested = heldout_task(own)
    if name is None or name == tested.name:
        return tested, heldout_new_tokens(own)
    if name == own.task.name:
        return own.task, own.max_new_tokens
    if name not in NEW_TOKENS:
        raise ConfigError(f"unknown task {name!r}; there are {', '.join(NEW_TOKENS)}")
    other = {"name": name, "seed": tested.seed, "system_prompt": tested.system_prompt}
    if name == "prompts":
        other["num_heldout"] = 0  # all rows that there are
    return TaskConfig.model_validate(other), usual_new_tokens(name)


def _detail_rows(
    heldout: HeldOut, scorecard: Scorecard | None, rollouts: Sequence[Rollout]
) -> Iterator[VerdictRow]:
    """A row a completion, prompt by prompt: of a benchmark as `es-align score` writes it, with the
    response; `sample` counts where there are several.
    """
    for place, prompt in enumerate(heldout.prompts):
        for number, rollout in enumerate(rollouts):
            sample = rollout.samples[place]
            assert sample.prompt_id == prompt.prompt_id
            count: VerdictRow = {"sample": number} if len(rollouts) > 1 else {}
            if scorecard is not None:
                key = prompt.columns[scorecard.key_name]
                assert isinstance(key, int)
                row = scorecard.verdicts(key, sample.completion)
            else:
                row = {
                    "prompt_id": sample.prompt_id,
                    "reward": sample.reward,
                    "passed": sample.passed,
                    "reason": sample.reason,
                }
            yield {**row, **count, "response": sample.completion}
