"""From a comparison to the runs it is made of, each checked completely before one is started.

A job is one arm with one seed and, where the arm sweeps settings, one choice of them. All jobs of a
comparison have the same question; what an arm may not set is refused here.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from es_align.budget import Spent, is_spent
from es_align.compare.config import (
    ASKED_OF_ALL,
    OWN,
    QUESTION,
    ArmConfig,
    CompareConfig,
    DriftConfig,
    GrpoSettings,
)
from es_align.config import Config, only_tested, usual_new_tokens
from es_align.config_loading import apply_to_tree, validated
from es_align.errors import ConfigError, EsAlignError
from es_align.preflight import check_settings, validate
from es_align.reward_checks import has_likelihood
from es_align.tasks import has_own_reward

ADAPTER_SPACES = ("lora", "singular_values")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one method."""

    arm: str
    choice: Mapping[str, JsonValue]  # of the swept settings; empty where nothing is swept
    seed: int
    config: Config  # es: the run's; grpo: the shared settings, in bf16
    grpo: GrpoSettings | None
    start: str | None

    @property
    def kind(self) -> str:
        """es or grpo."""
        return "es" if self.grpo is None else "grpo"

    @property
    def name(self) -> str:
        """Of its folder, and to people: arm, swept settings, seed."""
        return ",".join([self.arm, *_chosen(self.choice, "="), f"seed={self.seed}"])

    @property
    def label(self) -> str:
        """Of its arm and swept settings, in tables and plots."""
        return " ".join([self.arm, *_chosen(self.choice, " ")])

    def to_json(self) -> str:
        """For the process that runs it."""
        grpo = None if self.grpo is None else self.grpo.model_dump(mode="json")
        tree = {
            "arm": self.arm,
            "choice": dict(self.choice),
            "seed": self.seed,
            "config": self.config.model_dump(mode="json"),
            "grpo": grpo,
            "start": self.start,
        }
        return json.dumps(tree, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """What `to_json` wrote."""
        tree = json.loads(text)
        grpo = tree["grpo"]
        return cls(
            tree["arm"],
            tree["choice"],
            tree["seed"],
            Config.model_validate(tree["config"]),
            None if grpo is None else GrpoSettings.model_validate(grpo),
            tree["start"],
        )


def choices(arm: ArmConfig) -> list[dict[str, JsonValue]]:
    """Every combination of an arm's swept settings; one empty choice if it sweeps none."""
    return [
        dict(zip(arm.sweep, values, strict=True))
        for values in itertools.product(*arm.sweep.values())
    ]


def make_jobs(compare: CompareConfig, *, is_begun: bool, is_complete: bool = True) -> list[Job]:
    """Every job that may come, checked; the swept ones with every seed. Without `is_complete` the
    data and the adapter need not be there yet.

    Raises ConfigError naming the arm for settings that are unknown, out of bounds or not an arm's
    own, and for a budget that is too small for a step; ModelError or DataError for what is missing.
    """
    jobs = [job for name in compare.arms for job in _jobs_of(compare, name)]
    for job in jobs if is_complete else ():
        validate(job.config, is_begun=is_begun)
    for job in jobs:
        _check_drift(job, compare.drift, is_begun=is_begun, is_complete=is_complete)
    return jobs


def _check_drift(job: Job, drift: DriftConfig, *, is_begun: bool, is_complete: bool) -> None:
    """Refuse a task that cannot be asked after hours of training."""
    config = drift_config(job.config, drift)
    if config is None:
        return
    try:
        if is_complete:
            validate(config, is_begun=is_begun, is_trained=False)
        else:
            check_settings(config)
    except EsAlignError as error:
        raise type(error)(f"drift, as arms.{job.arm} would be asked it: {error}") from error


def drift_config(config: Config, drift: DriftConfig) -> Config | None:
    """How the task that no arm trains on is asked of a job's model, by the same workers; None
    without such a task.
    """
    if drift.task is None:
        return None
    new_tokens = drift.max_new_tokens or usual_new_tokens(
        drift.task.name, has_kinds=bool(drift.task.kinds)
    )
    if not has_own_reward(drift.task):
        raise ConfigError(
            f"drift.task.name={drift.task.name} has no reward of its own to score it by; use "
            "another task"
        )
    tree = only_tested(config, drift.task, new_tokens)
    return validated(Config, tree | {"reward": []}, "drift")


def arm_config(compare: CompareConfig, name: str | None) -> Config:
    """The run of an ES arm, with its first choice of swept settings and the first seed.

    Raises ConfigError naming the ES arms if there is none of that name.
    """
    names = [key for key, arm in compare.arms.items() if arm.kind == "es"]
    if name not in names:
        told = "no arm is named" if name is None else f"{name} is no ES arm"
        raise ConfigError(f"{told}; name one of the comparison's ES arms: {', '.join(names)}")
    return _job(compare, name, choices(compare.arms[name])[0], compare.seeds[0]).config


def _jobs_of(compare: CompareConfig, name: str) -> Iterator[Job]:
    arm = compare.arms[name]
    for key, values in arm.sweep.items():
        if not values:
            raise ConfigError(f"arms.{name}.sweep.{key} is empty; list the values to try")
    for choice, seed in itertools.product(choices(arm), compare.seeds):
        job = _job(compare, name, choice, seed)
        _check_budget(compare, job)
        check_settings(job.config)
        if has_likelihood(job.config):
            raise ConfigError(
                "shared.reward: log_likelihood writes no completions, and GRPO has nothing else to "
                "learn from; use a reward of completions"
            )
        yield job


def _job(compare: CompareConfig, name: str, choice: Mapping[str, JsonValue], seed: int) -> Job:
    arm, where = compare.arms[name], f"arms.{name}"
    settings: dict[str, JsonValue] = json.loads(json.dumps(arm.settings))
    apply_to_tree(settings, [f"{key}={json.dumps(value)}" for key, value in choice.items()])
    _refuse_own(compare.shared, "shared")
    own: dict[str, JsonValue] = {"seed": seed, "budget": compare.budget.model_dump(mode="json")}
    if arm.kind == "grpo":
        grpo = validated(GrpoSettings, settings, f"{where}.settings")
        tree = _with(compare.shared, own) | {"precision": "bf16"}
        config = validated(Config, tree, "shared")
        return Job(name, choice, seed, config, grpo, compare.start)
    _refuse_own_question(settings, where)
    tree = _with(compare.shared, settings) | own
    if compare.start is not None:
        _start_from(tree, compare.start, where)
    config = validated(Config, tree, f"shared and {where}.settings")
    if compare.start is None and config.space.adapter is not None:
        raise ConfigError(
            f"{where}.settings.space.adapter={config.space.adapter}: the other arms would start "
            "from another model; name the adapter as `start`, for all of them"
        )
    return Job(name, choice, seed, config, None, compare.start)


def _refuse_own_question(settings: Mapping[str, JsonValue], where: str) -> None:
    """An arm with a task, reward or length of its own answers another question."""
    evaluation = settings.get("evaluation")
    inner = evaluation if isinstance(evaluation, dict) else {}
    names = [key for key in QUESTION if key in settings]
    names += [f"evaluation.{key}" for key in ASKED_OF_ALL if key in inner]
    if names:
        raise ConfigError(
            f"{where}.settings has {', '.join(names)}, which all arms must share, or they cannot "
            "be compared; set it under `shared`"
        )
    _refuse_own(settings, f"{where}.settings")


def _refuse_own(settings: Mapping[str, JsonValue], where: str) -> None:
    taken = [key for key in OWN if key in settings]
    if taken:
        raise ConfigError(
            f"{where} has {', '.join(taken)}, which the comparison sets for every arm; leave it "
            "out (seeds and budget stand at the top)"
        )


def _start_from(tree: dict[str, JsonValue], start: str, where: str) -> None:
    space = tree.get("space")
    space = dict(space) if isinstance(space, dict) else {}
    if space.get("kind") not in ADAPTER_SPACES or space.get("basis") != "adapter":
        raise ConfigError(
            f"{where}.settings.space starts from the bare model, and start={start} is where all "
            f"arms start; use kind {' or '.join(ADAPTER_SPACES)} with basis adapter, or leave "
            "`start` out"
        )
    if space.setdefault("adapter", start) != start:
        raise ConfigError(
            f"{where}.settings.space.adapter={space['adapter']} is not start={start}; all arms "
            "start from the same adapter, leave it out"
        )
    tree["space"] = space


def _check_budget(compare: CompareConfig, job: Job) -> None:
    """Refuse a budget that one step of a method exceeds, its completions being as long as they may.

    Seconds are not known before; an arm that has no time for a step fails by itself.
    """
    config = job.config
    if job.grpo is None:
        completions = config.population * config.prompts_per_generation * config.samples_per_prompt
        told = f"a generation of arms.{job.arm}"
    else:
        completions = job.grpo.completions_per_step
        told = f"a step of arms.{job.arm}"
    tokens = completions * config.max_new_tokens
    if is_spent(compare.budget, Spent(0.0, completions - 1, tokens - 1)):
        raise ConfigError(
            f"budget completions={compare.budget.completions} tokens={compare.budget.tokens} is "
            f"less than {told}, {completions} completions of up to {config.max_new_tokens} tokens; "
            f"use {completions} completions, {tokens} tokens or more"
        )


def _with(base: Mapping[str, JsonValue], over: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Settings laid over others, section by section."""
    tree = dict(base)
    for key, value in over.items():
        below = tree.get(key)
        both_are_sections = isinstance(below, dict) and isinstance(value, dict)
        tree[key] = _with(below, value) if both_are_sections else value  # type: ignore[arg-type]
    return tree


def _chosen(choice: Mapping[str, JsonValue], between: str) -> list[str]:
    return [f"{key.rpartition('.')[2]}{between}{_plain(value)}" for key, value in choice.items()]


def _plain(value: JsonValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "-")
