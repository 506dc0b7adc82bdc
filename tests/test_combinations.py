"""Every strategy in every space it serves, from start to export, on the tiny model.

The workers are one evaluator in this process, so that a combination takes seconds; what Ray adds is
tested in test_run.py and test_seeded_runs.py.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from es_align import load_config, replay, train
from es_align.config import Config
from es_align.ledger import Ledger, LedgerRecord

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
GENERATIONS = 4
COMBINATIONS = (
    "kind=singular_values strategy.kind=openai_es",
    "kind=singular_values strategy.kind=cma_es",
    "kind=singular_values strategy.kind=sep_cma_es",
    "kind=singular_values strategy.kind=snes",
    "kind=singular_values basis=random",
    "kind=core",
    "kind=core basis=activations noise_rank=2",
    "kind=lora strategy.optimizer=adam strategy.max_step=0.1",
    "kind=lora lora_factors=b strategy.noise=rademacher",
    "kind=weights strategy.optimizer=sgd strategy.max_step=0.1",
    "kind=weights master=bf16 strategy.noise_reuse=2",
)


@pytest.fixture(autouse=True)
def everything_here(workers_here: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    with workers_here():
        yield


def config_of(combination: str, **overrides: object) -> Config:
    given = [
        item if item.startswith("strategy") else f"space.{item}" for item in combination.split()
    ]
    return load_config(TINY, [*given, *(f"{name}={value}" for name, value in overrides.items())])


def records(folder: Path) -> tuple[LedgerRecord, ...]:
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        return ledger.records


@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_run_moves_resumes_replays_and_exports(combination: str, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    result = train(config_of(combination, generations=GENERATIONS), run_dir=straight)
    assert result.generations == GENERATIONS and result.failed == 0
    assert Path(result.exported).is_dir()  # reloaded and compared, or the run had failed
    digests = [record.mean_digest for record in records(straight)]
    assert len(set(digests)) == GENERATIONS

    train(config_of(combination, generations=2), run_dir=resumed)
    train(config_of(combination, generations=GENERATIONS), run_dir=resumed, resume=True)
    assert records(resumed) == records(straight)
    for generation in (0, 2, GENERATIONS):
        assert replay(resumed, generation=generation).matches


def test_both_masters_hold_the_same_numbers(
    tmp_path: Path,
) -> None:
    """fp32, and bf16 with its residual: every digest is the same."""
    digests = []
    for master in ("fp32", "bf16"):
        config = config_of(f"kind=weights master={master}", generations=2)
        train(config, run_dir=tmp_path / master)
        digests.append([record.mean_digest for record in records(tmp_path / master)])
    assert digests[0] == digests[1]
