"""What a run's rewards are made of beside their settings: files of the user's, reward models, and
packages that bring a reward.

Files are kept in the run's folder, with the modules beside them that they import: `rewards/1/` has
the first file and its modules, and so on. So a resume notices a change, and an evaluation finds
them where the originals are not. Of a model the digests of its files are kept, of a package its
version. Seen are modules that an import statement names; packages and data beside a file are not.
"""

import ast
import hashlib
from collections.abc import Mapping
from pathlib import Path

from es_align.config import Config
from es_align.errors import RunFolderError
from es_align.reward_checks import file_and_function, reward_specs
from es_align.run_folder import REWARDS
from rewards.custom import find_entry_point
from rewards.models import config_path
from rewards.registry import REWARD_MODEL, RewardModelOptions
from rewards.specs import RewardSpec

# Weights, configuration and tokenizer; a README may change.
MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def reward_files(config: Config) -> dict[str, bytes]:
    """The files that `reward` names and the modules they import, by their place under `rewards/`.

    Raises ConfigError for a file that cannot be read.
    """
    files = [spec.file for spec in reward_specs(config) if spec.file is not None]
    found: dict[str, bytes] = {}
    for number, file in enumerate(files, 1):
        path, content = Path(file.path), file.source.encode()
        found[f"{number}/{path.name}"] = content
        beside = _modules_beside(path, content)
        found |= {f"{number}/{name}": module for name, module in beside.items()}
    return found


def reward_parts(config: Config) -> dict[str, dict[str, str]]:
    """By reward model or package: digests of a folder's files, SHA-256, or the commit of a hub id;
    the version.

    Reads the weights whole. Raises ModelError for a model that is not there.
    """
    parts: dict[str, dict[str, str]] = {}
    for reward, spec in zip(config.reward, reward_specs(config), strict=True):
        if spec.is_shipped and spec.name == REWARD_MODEL:
            parts[str(reward.options["model"])] = _model_parts(spec)
        elif not spec.is_shipped and spec.file is None:
            parts[spec.name] = _package_version(spec.name)
    return parts


def kept_rewards(folder: Path, config: Config) -> Config:
    """A run's configuration with each reward file taken from the run's folder; the original is
    taken only if no copy is there.

    Raises RunFolderError if there is neither.
    """
    rewards, number = list(config.reward), 0
    for place, reward in enumerate(rewards):
        named = file_and_function(reward.name)
        if named is None:
            continue
        path, function = named
        number += 1
        kept = folder / REWARDS / str(number) / path.name
        found = next((file for file in (kept, path) if file.is_file()), None)
        if found is None:
            raise RunFolderError(
                f"the run's reward file is neither in {kept} nor in {path}, where it was; put it "
                "back, or name another by --set reward=FILE.py:FUNCTION"
            )
        rewards[place] = reward.model_copy(update={"name": f"{found}:{function}"})
    return config.model_copy(update={"reward": tuple(rewards)})


def check_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raise RunFolderError if reward files or their modules are not those in a run's folder."""
    root = folder / REWARDS
    kept = {f.relative_to(root).as_posix(): f.read_bytes() for f in sorted(root.rglob("*.py"))}
    for place in (*files, *(place for place in kept if place not in files)):
        name = place.partition("/")[2]
        if place not in kept:
            raise RunFolderError(
                f"{folder} has no copy of {name}: it was begun without this file, or "
                f"{root / place} was removed; do without it or restore the copy, or start anew "
                "in another folder"
            )
        if files.get(place) != kept[place]:
            raise RunFolderError(
                f"{folder} was begun with another {name}, which is kept in "
                f"{root / place}; put it back, or start anew in another folder"
            )


def check_parts(
    folder: Path, kept: Mapping[str, Mapping[str, str]], parts: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise RunFolderError if a reward model or a package is another than when a run was begun."""
    for reward, now in parts.items():
        remedy = "restore the file or install that version"
        check_same(folder, f"reward {reward}", kept.get(reward, {}), now, remedy)


def check_same(
    folder: Path, owner: str, kept: Mapping[str, str], parts: Mapping[str, str], remedy: str
) -> None:
    """Raise RunFolderError, with the remedy in it, if a part of `owner` is another than when a run
    was begun; names the first.
    """
    for part in sorted({*kept, *parts}):
        old, new = kept.get(part, "none"), parts.get(part, "none")
        if old != new:
            raise RunFolderError(
                f"{folder} was begun with {part} {old:.20} of {owner}, now it is {new:.20}; "
                f"{remedy}, or start anew in another folder"
            )


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's weights, configuration and tokenizer, by file name; all are read."""
    files = (file for file in sorted(folder.iterdir()) if file.suffix in MODEL_SUFFIXES)
    return {file.name: _file_digest(file) for file in files if file.is_file()}


def _modules_beside(path: Path, content: bytes) -> dict[str, bytes]:
    """The modules in a file's folder that it imports, or that they do, by file name."""
    found: dict[str, bytes] = {}
    unread = [content]
    while unread:
        for name in sorted(_imported(unread.pop())):
            file = path.with_name(f"{name}.py")
            if file.name != path.name and file.name not in found and file.is_file():
                found[file.name] = file.read_bytes()
                unread.append(found[file.name])
    return found


def _imported(content: bytes) -> set[str]:
    """First parts of the names that import statements ask for, wherever they stand; none of what is
    no Python, which only an import under way would tell.
    """
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - {""}


def _model_parts(spec: RewardSpec) -> dict[str, str]:
    options = RewardModelOptions(**spec.options)  # pyright: ignore[reportArgumentType]
    folder = Path(options.model)
    if not folder.is_dir():
        return {"commit": config_path(options).parent.name}  # of the hub's snapshot
    return file_digests(folder)


def _package_version(name: str) -> dict[str, str]:
    point = find_entry_point(name)
    if point is None or point.dist is None:
        return {}
    return {point.dist.name: point.dist.version}


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
