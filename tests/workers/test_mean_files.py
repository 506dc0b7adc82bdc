"""Stored means: a worker goes on from one to the same bits, and from a wrong one never."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.descent import OptimizerKind
from kernels.master import MasterKind
from workers import mean_files
from workers.layers import NoiseLayer
from workers.mean_files import load_mean, store_mean
from workers.means import Means, MeanSettings
from workers.protocol import Move

NUM_PAIRS = 4
SHAPE = (6, 8)


def make_means(
    optimizer: OptimizerKind = "momentum", master: MasterKind = "fp32", seed: int = 5
) -> Means:
    weights = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    names = ("first", "second")
    layers = [
        NoiseLayer(name, *SHAPE, noise_rank=1, unit=0.5, parameter=place)
        for place, name in enumerate(names)
    ]
    by_name = dict(zip(names, weights, strict=True))
    settings = MeanSettings(seed, "binomial", optimizer, 0.8, master)
    return Means(layers, settings, by_name.__getitem__)


def make_moves(num_moves: int = 7) -> list[Move]:
    random = np.random.Generator(np.random.Philox(2))
    weights = random.standard_normal((num_moves, NUM_PAIRS))
    return [Move(g, g, weight_N, 0.1, 0.5) for g, weight_N in enumerate(weights)]


def moved(means: Means, moves: Sequence[Move]) -> Means:
    for move in moves:
        means.move(move)
    return means


@pytest.mark.parametrize("master", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_what_goes_on_from_a_stored_mean_is_the_same_bits(
    tmp_path: Path, optimizer: OptimizerKind, master: MasterKind
) -> None:
    moves = make_moves()
    straight = moved(make_means(optimizer, master), moves)
    store_mean(tmp_path, moved(make_means(optimizer, master), moves[:4]))
    joined = make_means(optimizer, master)
    assert load_mean(tmp_path, joined, moves) == joined.num_moves == 4
    assert moved(joined, moves[4:]).digest == straight.digest
    assert joined.history == straight.history
    for (_, one), (_, other) in zip(joined.states(), straight.states(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_newest_two_are_kept_and_a_joiner_takes_the_last_it_can_use(tmp_path: Path) -> None:
    moves, means = make_moves(), make_means()
    for move in moves:
        means.move(move)
        store_mean(tmp_path, means)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mean-000006.safetensors",
        "mean-000007.safetensors",
    ]
    assert load_mean(tmp_path, make_means(), moves) == 7
    assert load_mean(tmp_path, make_means(), moves[:6]) == 6
    assert load_mean(tmp_path, make_means(), moves[:5]) == 0


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty])
def test_a_damaged_file_is_passed_over_for_an_older_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    moves, means = make_moves(), make_means()
    for num_moves in (2, 5):
        damaged = store_mean(tmp_path, moved(means, moves[means.num_moves : num_moves]))
    damage(damaged)
    joined = make_means()
    assert load_mean(tmp_path, joined, moves) == 2
    assert moved(joined, moves[2:5]).digest == means.digest


def test_means_of_other_moves_or_settings_are_not_taken(tmp_path: Path) -> None:
    moves = make_moves()
    store_mean(tmp_path, moved(make_means(), moves[:4]))
    assert load_mean(tmp_path, make_means(seed=6), moves) == 0
    assert load_mean(tmp_path, make_means("sgd"), moves) == 0
    other = [*moves[:1], moves[2], *moves[2:]]
    joined = make_means()
    assert load_mean(tmp_path, joined, other) == 0 == joined.num_moves
    assert joined.digest == make_means().digest


def test_where_the_folder_is_not_seen_every_move_is_made(tmp_path: Path) -> None:
    assert load_mean(tmp_path / "elsewhere", make_means(), make_moves()) == 0


def test_what_a_worker_killed_while_it_stored_has_left_is_removed(tmp_path: Path) -> None:
    for name in (".draft-mean-000002.safetensors-4711", ".draft-pins.json"):
        (tmp_path / name).write_bytes(b"half")
    stored = store_mean(tmp_path, moved(make_means(), make_moves()[:3]))
    assert set(tmp_path.iterdir()) == {stored, tmp_path / ".draft-pins.json"}


def test_one_that_still_stores_when_it_is_killed_and_followed_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, save = make_moves(), mean_files.save_file
    monkeypatch.setattr("os.getpid", lambda: 4711)

    def followed(tensors: dict[str, torch.Tensor], draft: Path, header: dict[str, str]) -> None:
        save(tensors, draft, header)
        with monkeypatch.context() as next_worker:
            next_worker.setattr("workers.mean_files.save_file", save)
            next_worker.setattr("os.getpid", lambda: 4712)
            store_mean(tmp_path, moved(make_means(), moves[:2]))

    monkeypatch.setattr("workers.mean_files.save_file", followed)
    with pytest.raises(FileNotFoundError):
        store_mean(tmp_path, moved(make_means(), moves[:1]))
    assert [path.name for path in tmp_path.iterdir()] == ["mean-000002.safetensors"]


def test_a_disk_that_is_full_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, draft: Path, header: object) -> None:
        draft.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("workers.mean_files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        store_mean(tmp_path, make_means())
    assert not list(tmp_path.iterdir())
