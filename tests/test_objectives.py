"""Whole runs of the tiny model with several samples a prompt, and with members that lose scores."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from es_align import load_config, replay, train
from es_align.errors import WorkerError
from es_align.ledger import Ledger
from es_align.records import LedgerRecord
from es_align.results import TrainResult
from rewards.base import Columns, Score
from rewards.registry import get_reward
from workers.evaluator import Evaluator
from workers.protocol import Chunk, ChunkResult

Here = Callable[[], AbstractContextManager[None]]
TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
GENERATIONS, MEMBERS, PROMPTS, SAMPLES = 4, 8, 4, 3
PASS_AT_2 = [
    f"generations={GENERATIONS}",
    "objective=pass@2",
    f"samples_per_prompt={SAMPLES}",
    "temperature=1.0",
    "strategy.tie_break=0.5",
]


def records(folder: Path) -> tuple[LedgerRecord, ...]:
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        return ledger.records


def generation_rows(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "reward/mean" in row]


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, workers_here: Here
) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("straight") / "run"
    with workers_here():
        return folder, train(load_config(TINY, PASS_AT_2), run_dir=folder)


@pytest.mark.slow
def test_every_sample_is_counted_and_the_score_is_pass_at_k(
    straight: tuple[Path, TrainResult],
) -> None:
    folder, result = straight
    assert result.completions == GENERATIONS * MEMBERS * PROMPTS * SAMPLES
    assert result.failed == 0
    for row, record in zip(generation_rows(folder), records(folder), strict=True):
        # Of three samples none, one, two or three pass: 0, 2/3, 1 or 1; averaged over four prompts.
        twelfths = 12 * np.array(record.reward_mean, dtype=np.float64)
        assert np.allclose(twelfths, twelfths.round(), atol=1e-9)
        assert row["reward/mean"] >= row["reward/pass_rate"]
        assert row["reward/num_missing"] == 0
        assert -6 < row["metric/log_likelihood"] < 0
    kept = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len([row for row in kept if row["member"] >= 0]) == GENERATIONS * 2 * PROMPTS


@pytest.mark.slow
def test_ties_are_broken_in_the_ledger_and_it_replays(straight: tuple[Path, TrainResult]) -> None:
    folder, _ = straight
    for record in records(folder):
        score_M = np.array(record.reward_mean)
        assert len(set(record.fitness)) == MEMBERS > len(set(score_M.round(9)))
        order = np.argsort(record.fitness_M)
        assert (np.diff(score_M[order]) > -1e-9).all()
    for generation in (1, GENERATIONS):
        assert replay(folder, generation=generation).matches


@pytest.mark.slow
def test_a_resumed_run_is_the_same_bit_for_bit(
    straight: tuple[Path, TrainResult], tmp_path: Path, workers_here: Here
) -> None:
    """On two workers, too."""
    with workers_here():
        train(load_config(TINY, [*PASS_AT_2, "generations=2"]), run_dir=tmp_path / "run")
    two_workers = load_config(TINY, [*PASS_AT_2, "workers.count=2"])
    train(two_workers, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(straight[0])


def lose(faults: dict[int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that fail in some generations for the chunks with these first members."""
    evaluate = Evaluator.evaluate

    def evaluate_faulty(evaluator: Evaluator, chunk: Chunk) -> ChunkResult:
        is_faulty = chunk.members[0] in faults.get(chunk.generation, ())
        reward = not_a_number if is_faulty else get_reward("letters")
        monkeypatch.setattr("rewards.scoring.get_reward", lambda name: reward)
        return evaluate(evaluator, chunk)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate_faulty)


def not_a_number(completion: str, columns: Columns) -> Score:
    """NaN, or an infinity where the answer is long."""
    return Score(np.inf if len(completion) > 6 else np.nan, False, {}, "ok")


@pytest.mark.slow
def test_members_without_a_score_are_excluded_and_too_few_others_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers_here: Here
) -> None:
    """Four chunks of a pair: one pair is lost in the second generation, three in the third."""
    config = load_config(TINY, ["generations=4", "workers.members_per_chunk=2"])
    folder = tmp_path / "run"
    with (
        monkeypatch.context() as patch,
        workers_here(),
        pytest.raises(WorkerError, match=r"generation 2: only 2 of 8 members .* --resume"),
    ):
        lose({1: (2,), 2: (0, 2, 6)}, patch)
        train(config, run_dir=folder)
    done = records(folder)
    assert [record.num_excluded for record in done] == [0, 2]
    assert [value is None for value in done[1].fitness] == [m in (2, 3) for m in range(8)]
    # The generation that stopped the run left its reasons, too, as the message says.
    for row, lost in zip(generation_rows(folder)[1:], (8, 24), strict=True):
        assert (row["failed"], row["reward/num_missing"], row["completions"]) == (lost, lost, 32)
        assert row["reason/error:not_finite"] == lost
    assert replay(folder).matches

    with workers_here():
        result = train(config, run_dir=folder, resume=True)
    assert result.generations == 4
    assert [row["generation"] for row in generation_rows(folder)] == [1, 2, 3, 4]
    assert records(folder)[:2] == done
    assert replay(folder).matches
