"""The rewards of a configuration: what workers get, and every check before a model loads.

A function of the user's is imported in a process of its own, once here and once on each worker, so
neither its faults nor what it imports reach the driver.
"""

import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from es_align.config import Config, RewardConfig
from es_align.config_errors import nearest
from es_align.errors import ConfigError, EsAlignError
from rewards.base import Columns
from rewards.custom import find_entry_point, installed_names
from rewards.json_schema import make_validator
from rewards.patterns import compile_pattern
from rewards.processes import ProcessPool
from rewards.registry import REWARDS, get_reward
from rewards.specs import ENTRY_POINTS, RewardFile, RewardSpec


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


def check_columns(config: Config, columns: Columns) -> None:
    """Refuse a reward that needs a column which a prompt of the task, with these, does not have."""
    for spec in reward_specs(config):
        if spec.is_shipped:
            _try(spec, columns)
            continue
        missing = [name for name in _required_columns(spec) if name not in columns]
        if missing:
            raise ConfigError(
                f"reward={spec.name} asks for {', '.join(missing)}, and the columns of "
                f"task.name={config.task.name} are {', '.join(columns) or 'none'}; take what is "
                "there, or give the argument a default"
            )


def _spec(reward: RewardConfig) -> RewardSpec:
    return RewardSpec(
        name=reward.name,
        options=reward.options,
        weight=reward.weight,
        pass_at=reward.pass_at,
        time_limit_s=reward.time_limit_s,
        batch_size=reward.batch_size,
        num_processes=reward.processes,
        is_chat=reward.chat,
        file=_file(reward.name),
    )


def _file(name: str) -> RewardFile | None:
    """The file of a name such as path/to/file.py:function, None for one of another kind."""
    if name in REWARDS:
        return None
    path_text, colon, function = name.rpartition(":")
    if not colon and (name.endswith(".py") or "/" in name):
        raise ConfigError(f"reward={name} names no function; write {name}:FUNCTION")
    if not colon:
        if find_entry_point(name) is None:
            known = [*REWARDS, *installed_names()]
            guess = nearest(name, known)
            raise ConfigError(
                f"reward={name} is no reward; "
                + (f"did you mean {guess}? " if guess else "")
                + f"There are {', '.join(known)}, or write path/to/file.py:function for your own "
                f"(a package can bring one as an entry point of group {ENTRY_POINTS})"
            )
        return None
    path = Path(path_text)
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
    """Options are what a shipped reward takes after `*`, of the types written there."""
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
    pattern, schema = spec.options.get("pattern"), spec.options.get("schema")
    if isinstance(pattern, str):
        compile_pattern(pattern)
    if isinstance(schema, dict):
        make_validator(json.dumps(schema))


def _options(name: str) -> Mapping[str, inspect.Parameter]:
    parameters = inspect.signature(get_reward(name)).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _try(spec: RewardSpec, columns: Columns) -> None:
    """Score an empty answer to a prompt, which reads all the columns that there must be."""
    reward = functools.partial(get_reward(spec.name), **spec.options)
    try:
        reward("", columns)
    except EsAlignError as error:
        raise ConfigError(f"reward={spec.name} does not go with the task: {error}") from None
