"""The rewards of a configuration: what workers get, and every check before a model loads.

A function of the user's is imported in a process of its own, once here and once on each worker, so
neither its faults nor what it imports reach the driver.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from es_align.config import Config, RewardConfig, pass_k
from es_align.config_errors import nearest
from es_align.errors import ConfigError, EsAlignError
from rewards.base import Columns, JsonValue
from rewards.columns import text_column
from rewards.custom import find_entry_point, installed_names
from rewards.json_schema import make_validator
from rewards.models import check_reward_model
from rewards.patterns import compile_pattern
from rewards.processes import ProcessPool
from rewards.registry import (
    ISOLATED,
    LOG_LIKELIHOOD,
    MODEL_REWARDS,
    REWARD_MODEL,
    REWARDS,
    LogLikelihoodOptions,
    RewardModelOptions,
    get_reward,
)
from rewards.specs import ENTRY_POINTS, RewardFile, RewardSpec, specs_or_own


def reward_specs(config: Config) -> tuple[RewardSpec, ...]:
    """What a worker needs to know; files are read here. Raises ConfigError if one cannot be."""
    return tuple(_spec(reward) for reward in config.reward)


def check_rewards(config: Config) -> None:
    """Refuse a reward that is not there, has wrong options, or cannot be called as it will be.

    Raises ConfigError naming the reward, what is wrong and the next step.
    """
    for spec in reward_specs(config):
        if spec.is_shipped:
            _check_options(spec)
        else:
            _required_columns(spec)
        if spec.is_shipped and spec.name == REWARD_MODEL:
            check_reward_model(RewardModelOptions(**spec.options))  # pyright: ignore[reportArgumentType]
    _check_likelihood(config)
    _check_verdict(config)


def has_likelihood(config: Config) -> bool:
    """Whether the reward is the likelihood of a reference, for which nothing is written."""
    return any(reward.name == LOG_LIKELIHOOD for reward in config.reward)


def check_reward_settings(config: Config) -> None:
    """Refuse settings that a reward does not read; one that has its default is none."""
    for reward, spec in zip(config.reward, reward_specs(config), strict=True):
        unread = [] if spec.is_isolated else ["time_limit_s", "processes"]
        unread += ["batch_size", "chat"] if spec.is_shipped else []
        defaults = RewardConfig.model_fields
        changed = [name for name in unread if getattr(reward, name) != defaults[name].default]
        if changed:
            raise ConfigError(
                f"reward={spec.name} does not read {', '.join(changed)}: processes and limits are "
                f"for {', '.join(sorted(ISOLATED))} and functions of yours, batches and chat for "
                f"these functions; leave it out{_own_option(spec, changed)}"
            )


def _own_option(spec: RewardSpec, names: Sequence[str]) -> str:
    known = _options(spec.name)
    return "".join(f", or set options.{name}" for name in names if name in known)


def check_columns(config: Config, columns: Columns, task: str, reward_name: str | None) -> None:
    """Refuse rewards, those configured or else the task's own, that do not go with prompts of these
    columns, and a task that has none of its own (`reward_name` None) where none is configured.

    `task` is what an error calls it. Raises ConfigError.
    """
    specs = specs_or_own(reward_specs(config), reward_name)
    if not specs:
        raise ConfigError(
            f"{task} has no reward of its own; set reward to path/to/file.py:function, or to one "
            f"of {', '.join((*REWARDS, *MODEL_REWARDS))} (docs/rewards.md)"
        )
    for spec in specs:
        if spec.is_shipped:
            _try(spec, columns)
            continue
        missing = [name for name in _required_columns(spec) if name not in columns]
        if missing:
            raise ConfigError(
                f"reward={spec.name} asks for {', '.join(missing)}, and the columns of {task} are "
                f"{', '.join(columns) or 'none'}; take what is there, or give the argument a "
                "default"
            )


def _spec(reward: RewardConfig) -> RewardSpec:
    return RewardSpec(
        name=reward.name,
        options=_options_anywhere(reward),
        weight=reward.weight,
        pass_at=reward.pass_at,
        time_limit_s=reward.time_limit_s,
        batch_size=reward.batch_size,
        num_processes=reward.processes,
        is_chat=reward.chat,
        file=_file(reward.name),
    )


def _options_anywhere(reward: RewardConfig) -> Mapping[str, JsonValue]:
    """Options as a worker in another folder reads them."""
    model = reward.options.get("model")
    if reward.name == REWARD_MODEL and isinstance(model, str) and Path(model).is_dir():
        return reward.options | {"model": str(Path(model).resolve())}
    return reward.options


def _check_likelihood(config: Config) -> None:
    """No reward beside `log_likelihood`, and nothing that reads sampled completions."""
    names = [reward.name for reward in config.reward]
    if LOG_LIKELIHOOD not in names:
        return
    if len(names) > 1:
        raise ConfigError(
            f"reward={LOG_LIKELIHOOD} scores the reference and {', '.join(names)} completions, so "
            f"they have no sum; use {LOG_LIKELIHOOD} alone"
        )
    unread = {
        "samples_per_prompt": (config.samples_per_prompt, 1),
        "temperature": (config.temperature, 0),
        "objective": (config.objective, "mean"),
        "strategy.tie_break": (config.strategy.tie_break, 0),
    }
    for name, (value, only) in unread.items():
        if value != only:
            raise ConfigError(
                f"{name}={value}: with reward={LOG_LIKELIHOOD} nothing is sampled; set "
                f"{name}={only}, or leave it out"
            )


def _check_verdict(config: Config) -> None:
    """pass@k of a reward that says which completions pass."""
    specs = reward_specs(config)
    if specs and pass_k(config.objective) is not None and not specs[0].has_verdict:
        raise ConfigError(
            f"objective={config.objective}: reward={specs[0].name} does not say what passes; set "
            "its pass_at, or use objective=mean"
        )


def file_and_function(name: str) -> tuple[Path, str] | None:
    """The parts of a reward's name such as path/to/file.py:function, None for one of another
    kind.
    """
    path, colon, function = name.rpartition(":")
    return (Path(path), function) if colon else None


def _file(name: str) -> RewardFile | None:
    """The file of a name such as path/to/file.py:function, None for one of another kind."""
    if name in REWARDS or name in MODEL_REWARDS:
        return None
    named = file_and_function(name)
    if named is None and (name.endswith(".py") or "/" in name):
        raise ConfigError(f"reward={name} names no function; write {name}:FUNCTION")
    if named is None:
        if find_entry_point(name) is None:
            known = [*REWARDS, *MODEL_REWARDS, *installed_names()]
            guess = nearest(name, known)
            raise ConfigError(
                f"reward={name} is no reward; "
                + (f"did you mean {guess}? " if guess else "")
                + f"There are {', '.join(known)}, or write path/to/file.py:function for your own "
                f"(a package can bring one as an entry point of group {ENTRY_POINTS})"
            )
        return None
    path, function = named
    if not path.is_file():
        what = "is a folder" if path.is_dir() else f"does not exist (looked in {Path.cwd()})"
        raise ConfigError(f"reward={name}: {path} {what}; name a Python file and a function in it")
    if not function.isidentifier():
        raise ConfigError(
            f"reward={name}: {function!r} is no name of a function; write {path}:score"
        )
    try:
        return RewardFile(str(path.resolve()), function, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"reward={name}: {path} is not UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from None


def _required_columns(spec: RewardSpec) -> tuple[str, ...]:
    pool = ProcessPool(spec, 1)
    try:
        return pool.start()
    finally:
        pool.close()


def _check_options(spec: RewardSpec) -> None:
    """Options are what a shipped reward takes after `*`, of the types written there, and all that
    have no default.
    """
    known = _options(spec.name)
    for name, value in spec.options.items():
        if name not in known:
            guess = nearest(name, known)
            raise ConfigError(
                f"reward={spec.name} has no option {name!r}; "
                + (f"did you mean {guess}?" if guess else f"it has {', '.join(known) or 'none'}")
            )
        try:
            TypeAdapter(known[name].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(
                f"reward={spec.name}: option {name}={value!r:.100}: {said}; correct it"
            ) from None
    missing = [n for n, p in known.items() if p.default is p.empty and n not in spec.options]
    if missing:
        raise ConfigError(
            f"reward={spec.name} needs options.{missing[0]}; write it in the reward's section"
        )
    pattern, schema = spec.options.get("pattern"), spec.options.get("schema")
    if isinstance(pattern, str):
        compile_pattern(pattern)
    if isinstance(schema, dict):
        make_validator(json.dumps(schema))


def _options(name: str) -> Mapping[str, inspect.Parameter]:
    takes: Callable[..., object] = MODEL_REWARDS.get(name) or get_reward(name)
    parameters = inspect.signature(takes).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _try(spec: RewardSpec, columns: Columns) -> None:
    """Score an empty answer to a prompt, which reads all the columns that there must be; of a
    reward that is no function, read the column.
    """
    try:
        if spec.name == LOG_LIKELIHOOD:
            options = LogLikelihoodOptions(**spec.options)  # pyright: ignore[reportArgumentType]
            text_column(columns, options.column)
        elif spec.name != REWARD_MODEL:
            functools.partial(get_reward(spec.name), **spec.options)("", columns)
    except EsAlignError as error:
        raise ConfigError(f"reward={spec.name} does not go with the task: {error}") from None
