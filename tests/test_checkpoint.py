"""Checkpoints: whole or not there, verified, and only as many as asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from es_align.checkpoint import latest, load, pin, pinned, save
from es_align.config_search import StrategyConfig
from es_align.errors import RunFolderError
from es_align.ledger import digest
from es_align.strategies import STRATEGIES, Strategy, StrategyState, make_strategy

MEAN_D = np.array([0.1 + 0.2, -1 / 3, 5e-324])


def state(number: int) -> StrategyState:
    arrays = {"mean": MEAN_D * number, "covariance": np.asfortranarray(np.eye(3) + number / 3)}
    arrays["covariance"][0, 1] = 7.0
    return StrategyState(arrays, {"kind": "test", "sigma": 0.1 + 0.2, "seed": 2**63 - 1})


def save_all(directory: Path, generations: list[int], *, keep: int = 9) -> None:
    for generation in generations:
        save(directory, generation, state(generation), MEAN_D * generation, keep=keep)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_saved_loads_exactly(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 12, state(12), MEAN_D)
    assert path == tmp_path / "checkpoints" / "generation-000012"
    assert names(path) == ["manifest.json", "state.safetensors"]
    checkpoint = load(path)
    assert checkpoint.generation == 12
    assert checkpoint.mean_D.tobytes() == MEAN_D.tobytes()
    assert checkpoint.mean_digest == digest(MEAN_D)
    assert checkpoint.state.scalars == state(12).scalars
    assert checkpoint.state.arrays.keys() == {"mean", "covariance"}
    for name, array in state(12).arrays.items():
        assert digest(checkpoint.state.arrays[name]) == digest(array)


@pytest.mark.parametrize("kind", sorted(set(STRATEGIES) - {"eggroll"}))  # whose state is the ledger
def test_a_strategy_goes_on_from_disk_bit_for_bit(tmp_path: Path, kind: str) -> None:
    config = StrategyConfig.model_validate({"kind": kind})

    def run(start: int, stop: int, strategy: Strategy) -> None:
        for generation in range(start, stop):
            population = strategy.ask(generation)
            strategy.tell(population, -((population.vectors_MD - 0.3) ** 2).sum(axis=1))

    straight, broken_off, resumed = (
        make_strategy(config, dimension=6, population=8, seed=1, generations=6) for _ in range(3)
    )
    run(0, 6, straight)
    run(0, 3, broken_off)
    save(tmp_path, 3, broken_off.state(), broken_off.mean_D)
    checkpoint = latest(tmp_path).checkpoint
    assert checkpoint is not None
    resumed.load_state(checkpoint.state)
    assert digest(resumed.mean_D) == checkpoint.mean_digest
    run(checkpoint.generation, 6, resumed)
    assert digest(resumed.mean_D) == digest(straight.mean_D)


def test_latest_is_the_newest(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") == (None, ())
    save_all(tmp_path, [2, 10, 9])
    found = latest(tmp_path)
    assert found.checkpoint is not None
    assert (found.checkpoint.generation, found.skipped) == (10, ())


@pytest.mark.parametrize(("at_most", "expected"), [(10, 10), (9, 5), (5, 5), (4, None)])
def test_latest_up_to_a_generation(tmp_path: Path, at_most: int, expected: int | None) -> None:
    save_all(tmp_path, [5, 10])
    checkpoint = latest(tmp_path, at_most=at_most).checkpoint
    assert (checkpoint.generation if checkpoint else None) == expected


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["byte", "cut", "empty", "gone"])
def test_a_broken_checkpoint_is_skipped_and_said(tmp_path: Path, file: str, harm: str) -> None:
    save_all(tmp_path, [5, 10])
    broken = tmp_path / "generation-000010" / file
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "gone":
        broken.unlink()
    else:
        broken.write_bytes({"byte": content, "cut": content[:40], "empty": b""}[harm])
    found = latest(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.generation == 5
    assert len(found.skipped) == 1
    assert (
        f"generation-000010/{file} is {'missing' if harm == 'gone' else 'damaged'}"
        in (found.skipped[0])
    )
    with pytest.raises(RunFolderError, match=r"the ledger rebuilds every generation"):
        load(tmp_path / "generation-000010")
    save(tmp_path, 10, state(10), MEAN_D)
    assert load(tmp_path / "generation-000010").generation == 10


def test_state_and_manifest_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    save_all(tmp_path, [5, 10])
    stolen = (tmp_path / "generation-000005" / "state.safetensors").read_bytes()
    (tmp_path / "generation-000010" / "state.safetensors").write_bytes(stolen)
    assert "is damaged: its checksum is not the manifest's" in latest(tmp_path).skipped[0]


def test_a_renamed_folder_is_not_another_generation(tmp_path: Path) -> None:
    save_all(tmp_path, [5])
    (tmp_path / "generation-000005").rename(tmp_path / "generation-000007")
    found = latest(tmp_path)
    assert found.checkpoint is None
    assert "holds the checkpoint of generation 5" in found.skipped[0]


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    save_all(tmp_path, [1, 2, 3, 4, 5], keep=2)
    assert names(tmp_path) == ["generation-000004", "generation-000005"]


def test_a_pinned_one_stays_until_another_takes_its_name(tmp_path: Path) -> None:
    save_all(tmp_path, [1, 2], keep=1)
    pin(tmp_path, "best", 2)
    save_all(tmp_path, [3, 4, 5], keep=1)
    assert names(tmp_path) == ["generation-000002", "generation-000005", "pins.json"]
    assert pinned(tmp_path) == {"best": 2}
    pin(tmp_path, "best", 5)
    save_all(tmp_path, [6], keep=1)
    assert names(tmp_path) == ["generation-000005", "generation-000006", "pins.json"]


def test_only_what_exists_can_be_pinned(tmp_path: Path) -> None:
    save_all(tmp_path, [1])
    with pytest.raises(RunFolderError, match="no checkpoint of generation=3 to pin; save it first"):
        pin(tmp_path, "best", 3)


def test_a_kill_before_the_rename_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(tmp_path, [1])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("es_align.checkpoint.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, state(2), MEAN_D)
    monkeypatch.undo()
    found = latest(tmp_path)
    assert found.checkpoint is not None
    assert (found.checkpoint.generation, found.skipped) == (1, ())
    save(tmp_path, 3, state(3), MEAN_D)
    assert names(tmp_path) == ["generation-000001", "generation-000003"]


def test_saving_a_generation_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 4, state(4), MEAN_D)
    path = save(tmp_path, 4, state(5), MEAN_D * 2)
    assert names(tmp_path) == ["generation-000004"]
    assert load(path).mean_D.tolist() == (MEAN_D * 2).tolist()


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    path = save(tmp_path, 4, state(4), MEAN_D)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["generation"] == 4
    assert manifest["scalars"]["sigma"] == 0.1 + 0.2
    assert manifest["mean_digest"] == digest(MEAN_D)
