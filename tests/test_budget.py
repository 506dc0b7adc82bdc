"""What a run may spend: counted, kept to, and the same however often it is interrupted."""

import json

import pytest

from es_align import train
from es_align.budget import NOTHING, BudgetConfig, Spent, add, is_spent, share_spent, spent_in
from es_align.config import Config
from es_align.config_loading import apply_overrides, config_digest
from es_align.errors import ConfigError
from es_align.run_folder import RunFolder

ROW = {"completions": 8, "tokens/total": 30, "time/evaluate_s": 1.5, "time/move_s": 0.25}


def test_generations_are_counted_and_evaluations_are_not():
    assert add(NOTHING, ROW) == Spent(1.75, 8, 30)
    assert spent_in([{"eval/reward": 0.5}, ROW, ROW]) == Spent(3.5, 16, 60)


@pytest.mark.parametrize(
    ("budget", "reached", "share"),
    [
        ({}, False, 0.0),
        ({"seconds": 3.5}, True, 1.0),
        ({"seconds": 7}, False, 0.5),
        ({"completions": 16}, True, 1.0),
        ({"completions": 17}, False, 16 / 17),
        ({"tokens": 60, "seconds": 100}, True, 1.0),
        ({"tokens": 80, "completions": 20}, False, 0.8),
    ],
)
def test_the_nearest_limit_decides(budget, reached, share):
    config = BudgetConfig.model_validate(budget)
    assert is_spent(config, Spent(3.5, 16, 60)) is reached
    assert share_spent(config, Spent(3.5, 16, 60)) == pytest.approx(share)


def test_a_run_ends_with_the_generation_that_spends_it(tiny_config, workers_here, tmp_path):
    config = apply_overrides(
        tiny_config, ["generations=9", "budget.completions=20", "evaluation.every=0"]
    )
    with workers_here():
        result = train(config, run_dir=tmp_path / "run")
    # 8 completions a generation: 24 is the first count that is not below 20.
    assert (result.generations, result.completions) == (3, 24)
    rows = RunFolder(tmp_path / "run").read_rows(tmp_path / "run" / "evaluations.jsonl")
    assert [row["generation"] for row in rows] == [0, 3]
    assert result.best_generation == 3


def test_a_larger_budget_goes_on_to_the_same_ledger(tiny_config, workers_here, tmp_path):
    straight = apply_overrides(tiny_config, ["generations=3"])
    cut = apply_overrides(straight, ["budget.completions=8"])
    with workers_here():
        train(straight, run_dir=tmp_path / "straight")
        assert train(cut, run_dir=tmp_path / "cut").generations == 1
        assert train(cut, run_dir=tmp_path / "cut", resume=True).generations == 1
        assert train(straight, run_dir=tmp_path / "cut", resume=True).generations == 3
    ledgers = [
        [json.loads(line) for line in (tmp_path / name / "ledger.jsonl").read_text().splitlines()]
        for name in ("straight", "cut")
    ]
    digests = [[row.get("mean_digest") for row in rows[1:]] for rows in ledgers]
    assert digests[0] == digests[1]


def test_it_is_no_part_of_what_a_run_is():
    assert config_digest(Config()) == config_digest(Config(budget=BudgetConfig(seconds=5)))


def test_a_budget_of_nothing_is_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"budget.seconds=0 must be above 0"):
        apply_overrides(tiny_config, ["budget.seconds=0"])
