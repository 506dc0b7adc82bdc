"""A mean of a seeded space on disk: a worker that joins late, or a resumed run's, goes on from it.

The moves in the ledger are the run; a stored mean saves making all of them again, which for whole
weights may take longer than training on. A file `mean-000050.safetensors` holds the matrices and
their optimisers' states after 50 moves, and in its header a digest of them and of those moves. One
that is damaged, or is of other moves, is passed over. Written beside its place, synced and renamed
into it: whole or not there. No pickle.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kernels.master import tensor_digest
from workers.means import Means, history_after
from workers.protocol import Move

KEPT = 2  # the newest, and one that may be being read
NAME = re.compile(r"mean-(\d{6,})\.safetensors")
HISTORY, DIGEST = "history", "digest"


def store_mean(folder: Path, means: Means) -> Path:
    """Write the file of a mean; older ones, and drafts of killed workers, are removed. Raises
    OSError.

    A run's fleet lets one worker at a time store a mean and waits until it has answered or is
    killed, so any other draft is left over; whoever still writes it cannot rename it any more.
    """
    path = folder / f"mean-{means.num_moves:06d}.safetensors"
    draft = folder / f".draft-{path.name}-{os.getpid()}"
    for left in folder.glob(".draft-mean-*"):
        left.unlink(missing_ok=True)
    tensors = {
        f"{place}.{name}": tensor.contiguous()
        for place, state in means.states()
        for name, tensor in state.items()
    }
    header = {HISTORY: means.history, DIGEST: _digest(sorted(tensors.items()))}
    try:
        save_file(tensors, draft, header)
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
    except SafetensorError as error:  # how the library says that the disk is full
        raise OSError(str(error)) from error
    finally:
        draft.unlink(missing_ok=True)
    for _, old in _stored(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_mean(folder: Path, means: Means, moves: Sequence[Move]) -> int:
    """Bring fresh means to the newest stored ones on the way of `moves`; returns how many of them
    that made unnecessary, 0 if there is no such file.
    """
    histories = [means.history]
    for move in moves:
        histories.append(history_after(histories[-1], move))
    for num_moves, path in reversed(_stored(folder)):
        if num_moves > len(moves):
            continue
        try:
            with safe_open(path, framework="pt") as tensors:
                header, names = tensors.metadata() or {}, sorted(tensors.keys())
                if header.get(HISTORY) != histories[num_moves]:
                    continue
                if header.get(DIGEST) == _digest((n, tensors.get_tensor(n)) for n in names):
                    means.load_states(_states(tensors, names), num_moves, histories[num_moves])
                    return num_moves
        except (OSError, SafetensorError):
            continue  # gone meanwhile, or torn: an older one, or the moves
    return 0


def catch_up(means: Means, moves: Sequence[Move], folder: Path | None = None) -> Means:
    """Let fresh means make these moves, from where a mean in `folder` is if there is one."""
    if folder is not None:
        load_mean(folder, means, moves)
    for move in moves[means.num_moves :]:
        means.move(move)
    return means


def _states(tensors: safe_open, names: Sequence[str]) -> Iterator[tuple[str, Mapping]]:
    """Each matrix's tensors, read when they are wanted."""
    parts: dict[str, list[str]] = {}
    for name in names:
        place, _, part = name.partition(".")
        parts.setdefault(place, []).append(part)
    for place, own in parts.items():
        yield place, {part: tensors.get_tensor(f"{place}.{part}") for part in own}


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    total = hashlib.sha256()
    for name, tensor in tensors:
        total.update(f"{name}{tensor_digest(tensor)}".encode())
    return total.hexdigest()


def _stored(folder: Path) -> list[tuple[int, Path]]:
    """Files by number of moves, in rising order; none where the folder is not seen."""
    if not folder.is_dir():
        return []
    matches = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)
