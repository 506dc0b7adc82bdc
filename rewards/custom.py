"""Rewards of the user's own: a function with the signature of TRL's reward functions.

    def score(prompts, completions, **columns) -> list[float | None]

All arguments are lists of one length and come by name; a function without `**` gets the columns it
names. It may be `async`. None means no score. This runs in a process of its own
(`rewards.processes`), where a function may raise, loop for ever or take the interpreter down.
"""

import asyncio
import functools
import importlib.metadata
import inspect
import linecache
import math
import sys
import traceback
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple, cast

from kernels.errors import ConfigError
from rewards.base import JsonValue, Prompted, Score, unscored
from rewards.specs import ENTRY_POINTS, RewardFile, RewardSpec

PROMPTS, COMPLETIONS = "prompts", "completions"
DEFAULT_PASS_AT = 1.0
MODULE = "es_align_reward"
EXAMPLE = "def score(prompts, completions, **columns): return [0.0 for _ in completions]"


class Signature(NamedTuple):
    """Which columns a function takes."""

    required: tuple[str, ...]
    accepted: tuple[str, ...] | None  # None: all of them


class CustomReward:
    """A function of the user's, called with batches."""

    def __init__(self, spec: RewardSpec) -> None:
        """Import it; ConfigError if there is none, or it cannot take prompts and completions."""
        function = _from_file(spec.file) if spec.file is not None else _installed(spec.name)
        self.signature = read_signature(function, spec)
        self._function = functools.partial(function, **spec.options)
        self._spec = spec
        self._loop = asyncio.Runner()
        self._told: set[str] = set()

    def score(self, items: Sequence[Prompted]) -> list[Score]:
        """One score for every item; a fault of the call is the reason of all of them."""
        try:
            returned = self._function(**self._arguments(items))
            if inspect.isawaitable(returned):
                returned = self._loop.run(_awaited(returned))
        except BaseException as error:  # sys.exit() in a reward is a fault like any other
            self._tell(error)
            return [unscored(f"error:{type(error).__name__}") for _ in items]
        if isinstance(returned, Mapping | Set):  # whose order is not that of the items
            return [unscored("error:not_a_list") for _ in items]
        try:
            values = list(cast(Sequence[object], returned))
        except TypeError:
            return [unscored("error:not_a_list") for _ in items]
        if len(values) != len(items):
            return [unscored("error:wrong_length") for _ in items]
        return [_score(value, self._spec.pass_at) for value in values]

    def _arguments(self, items: Sequence[Prompted]) -> Mapping[str, Sequence[object]]:
        names = dict.fromkeys(name for item in items for name in item.columns)
        accepted = self.signature.accepted
        arguments: dict[str, Sequence[object]] = {
            name: [item.columns.get(name) for item in items]
            for name in names
            if (accepted is None or name in accepted) and name not in self._spec.options
        }
        if self._spec.is_chat:
            said = [[{"role": "assistant", "content": item.completion}] for item in items]
            return arguments | {PROMPTS: [list(item.messages) for item in items], COMPLETIONS: said}
        asked = [item.messages[-1]["content"] if item.messages else "" for item in items]
        return arguments | {PROMPTS: asked, COMPLETIONS: [item.completion for item in items]}

    def _tell(self, error: BaseException) -> None:
        """The first error of each kind goes to stderr whole; reasons are only counted."""
        if type(error).__name__ not in self._told:
            self._told.add(type(error).__name__)
            traceback.print_exception(error)


def read_signature(function: Callable[..., object], spec: RewardSpec) -> Signature:
    """The columns a function takes; ConfigError if it cannot be called as it will be."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return Signature((), None)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in named}
    missing = [n for n in (PROMPTS, COMPLETIONS, *spec.options) if n not in names and not takes_all]
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if missing or by_place:
        wrong = (
            f"takes no {', '.join(missing)}" if missing else f"takes {by_place[0]} by place only"
        )
        raise ConfigError(
            f"reward={spec.name}: {spec.label}{inspect.signature(function)} {wrong}; all arguments "
            f"come by name, so write it as `{EXAMPLE}`"
        )
    given = {PROMPTS, COMPLETIONS, *spec.options}
    required = [p.name for p in named if p.default is p.empty and p.name not in given]
    return Signature(tuple(required), None if takes_all else tuple(names - given))


def find_entry_point(name: str) -> importlib.metadata.EntryPoint | None:
    """The installed reward of that name, not loaded."""
    return next(iter(importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)), None)


def installed_names() -> list[str]:
    """Names of all installed rewards."""
    return sorted(importlib.metadata.entry_points(group=ENTRY_POINTS).names)


def _installed(name: str) -> Callable[..., object]:
    point = find_entry_point(name)
    if point is None:
        raise ConfigError(
            f"reward={name} is no installed entry point of group {ENTRY_POINTS}; install the "
            "package that brings it, on every worker's machine"
        )
    return _checked(point.load(), name)


def _from_file(file: RewardFile) -> Callable[..., object]:
    module = types.ModuleType(MODULE)
    module.__file__ = file.path
    sys.modules[MODULE] = module
    sys.path.insert(0, str(Path(file.path).parent))
    # So that tracebacks show its lines where the file itself is not.
    lines = file.source.splitlines(keepends=True)
    linecache.cache[file.path] = (len(file.source), None, lines, file.path)
    exec(compile(file.source, file.path, "exec"), module.__dict__)
    found = module.__dict__.get(file.function)
    if found is None:
        known = [n for n, v in module.__dict__.items() if isinstance(v, types.FunctionType)]
        raise ConfigError(
            f"reward={file.path}:{file.function}: the file has no {file.function}; it has the "
            f"functions {', '.join(known) or '(none)'}: name one of them after the colon"
        )
    return _checked(found, f"{file.path}:{file.function}")


def _checked(found: object, name: str) -> Callable[..., object]:
    if not callable(found):
        raise ConfigError(
            f"reward={name} is a {type(found).__name__}, no function; write `{EXAMPLE}`"
        )
    return found


async def _awaited(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _score(value: object, pass_at: float | None) -> Score:
    if value is None:
        return unscored("no_score")
    if isinstance(value, str | bytes):
        return unscored("error:not_a_number")
    try:
        reward = float(cast(float, value))  # of NumPy and torch, too
    except Exception:
        return unscored("error:not_a_number")
    if not math.isfinite(reward):
        return unscored("error:not_finite")
    is_passed = reward >= (DEFAULT_PASS_AT if pass_at is None else pass_at)
    return Score(reward, is_passed, {}, "ok" if is_passed else "below_pass")


def as_items(rows: Sequence[JsonValue]) -> list[Prompted]:
    """Items as the pool of processes sent them."""
    return [Prompted(*cast(tuple, row)) for row in rows]
