"""From a YAML file and dotted overrides to a checked `Config`, and back to what identifies a run.

PyYAML is made stricter in two places: a key that stands twice is refused (it would keep the last
one), and `1e-3` is a number (in YAML 1.1, which PyYAML follows, it is text). Every mistake is told
in one paragraph: key, value, limit, next step.
"""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from es_align.config import Config
from es_align.config_errors import describe_errors, nearest
from es_align.config_search import Section
from es_align.errors import ConfigError
from es_align.sealed import json_digest
from rewards.base import JsonValue

S = TypeVar("S", bound=Section)

# Where and how fast a run is computed, and what is written down of it: none may change its numbers.
# `members_per_chunk` is not among them: what is in one batch decides how its sums are rounded.
NOT_IDENTITY = frozenset(
    {
        "run_dir",
        "mirror",
        "generations",  # a run may be made longer, unless a schedule is stretched by that
        "budget.seconds",
        "budget.completions",
        "budget.tokens",
        "checkpoint_every",
        "samples_per_generation",
        "workers.count",
        "workers.min_count",
        "workers.cpus",
        "workers.gpus",
        "workers.address",
        "workers.resources",
        "workers.label_selector",
        "workers.chunk_deadline_s",
        "workers.load_deadline_s",
        "workers.max_retries",
    }
)
# Compared whole: None or a section, which have no key in common, and names of the user's own.
WHOLE_SECTIONS = frozenset({"evaluation.task", "workers.resources", "workers.label_selector"})


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `strategy.sigma=0.02`, and check every field.

    Override values are YAML too; an empty one means null. Raises ConfigError naming every bad key.
    """
    return validated(Config, read_settings(path, overrides), str(path))


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, JsonValue]:
    """A YAML file's settings with overrides applied, not checked yet; raises ConfigError for a file
    that is none.
    """
    tree = _read(Path(path))
    apply_to_tree(tree, overrides)
    return tree


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with overrides applied as `load_config` does, and checked anew."""
    tree = config.model_dump(mode="json")
    apply_to_tree(tree, overrides)
    return validated(Config, tree, "settings")


def validated(kind: type[S], tree: Mapping[str, JsonValue], origin: str) -> S:
    """Settings of one kind, every field checked; ConfigError names `origin` and every bad key."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {describe_errors(error, kind)}") from None


def apply_to_tree(tree: dict[str, JsonValue], overrides: Sequence[str]) -> None:
    """Write overrides such as `strategy.sigma=0.02` into settings that are not checked yet."""
    for override in overrides:
        _apply(tree, override)


def default_run_dir(path: str | Path, config: Config) -> Path:
    """`config.run_dir`, or runs/<config name>-<seed>."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return Path("runs") / f"{Path(path).stem}-{config.seed}"


def config_digest(config: Config) -> str:
    """SHA-256, 64 hex digits, of the fields that define a run's result; see `NOT_IDENTITY`."""
    return json_digest(dict(_identity(config)))


def changed_fields(old: Config, new: Config) -> dict[str, tuple[JsonValue, JsonValue]]:
    """Dotted name to (old, new) of result-defining fields that differ; none if digests agree."""
    before, after = dict(_identity(old)), dict(_identity(new))
    return {
        name: (before[name], after[name])
        for name in before
        if name in after and before[name] != after[name]
    }


def _identity(config: Config) -> Iterator[tuple[str, JsonValue]]:
    for name, value in _leaves(config.model_dump(mode="json"), ""):
        if name not in NOT_IDENTITY or (name == "generations" and _is_scheduled(config)):
            yield name, value


def _is_scheduled(config: Config) -> bool:
    """Whether an earlier generation's update depends on how many are to come."""
    strategy = config.strategy
    return {strategy.sigma_schedule, strategy.learning_rate_schedule} != {"constant"}


def _leaves(tree: Mapping[str, JsonValue], prefix: str) -> Iterator[tuple[str, JsonValue]]:
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in WHOLE_SECTIONS:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without its two traps."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse(text: str, origin: str) -> JsonValue:
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{origin}{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not YAML: {' '.join(str(error).split())}") from None


def _read(path: Path) -> dict[str, JsonValue]:
    if not path.is_file():
        raise ConfigError(f"config {path} {_why_not_a_file(path)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config {path} is not UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from None
    tree = _parse(text, f"config {path}")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"config {path} holds one {type(tree).__name__}; write settings as `key: value` lines"
        )
    return tree


def _why_not_a_file(path: Path) -> str:
    if path.is_dir():
        return "is a folder; name a YAML file"
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = sorted(str(file) for file in folder.glob("*.yaml"))
    guess = nearest(str(path), names) or nearest(str(folder / f"{path.stem}.yaml"), names)
    if guess:
        return f"does not exist; did you mean {guess}?"
    return f"does not exist; there is: {', '.join(names) or 'no .yaml file in ' + str(folder)}"


def _apply(tree: dict[str, JsonValue], override: str) -> None:
    """Write one `a.b=value` into the tree; whether the key exists is checked with all others."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r} is not key=value; write --set population=64")
    *sections, last = keys
    for index, section in enumerate(sections):
        branch = tree.setdefault(section, {})
        if branch is None and ".".join(keys[: index + 1]) in WHOLE_SECTIONS:
            branch = tree[section] = {}
        if not isinstance(branch, dict):
            dotted = ".".join(keys[: index + 1])
            raise ConfigError(f"override {override!r}: {dotted} is no section but {branch!r}")
        tree = branch
    tree[last] = _parse(text, f"override {override!r}")
