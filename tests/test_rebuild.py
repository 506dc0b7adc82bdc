"""A run's state from its folder, without an engine: which checkpoints it takes, and what is said of
those that it cannot take.
"""

from pathlib import Path

import numpy as np
import pytest
from begun import begin

from es_align import checkpoint, training
from es_align.config import Config
from es_align.errors import WorkerError
from es_align.ledger import Ledger, LedgerRecord, digest
from es_align.models import resolve_model
from es_align.progress import SilentReporter
from es_align.rebuild import rebuilt_at, start_strategy
from es_align.run_folder import RunFolder
from es_align.session import resume_run
from es_align.strategies import Strategy
from es_align.tasks import make_task

GENERATIONS = 2


@pytest.fixture
def folder(tiny_config: Config, tmp_path: Path) -> RunFolder:
    """A run of two made-up generations, with a checkpoint of each."""
    folder = RunFolder(tmp_path / "run")
    begin(folder, tiny_config, resolve_model("tiny", "fp32"))
    with Ledger.open(folder.ledger, for_append=True) as ledger:
        strategy = start_strategy(tiny_config, ledger.header)
        for generation in range(GENERATIONS):
            ledger.append(told(strategy, generation))
            mean_D = strategy.mean_D
            assert mean_D is not None
            checkpoint.save(folder.checkpoints, generation + 1, strategy.state(), mean_D)
    return folder


def told(strategy: Strategy, generation: int) -> LedgerRecord:
    fitness = (0.0, 1.0, 2.0, 4.0)
    update = strategy.tell(strategy.ask(generation), np.array(fitness))
    mean_D = strategy.mean_D
    assert mean_D is not None
    return LedgerRecord(
        generation=generation,
        seed=0,
        sigma=update.sigma,
        learning_rate=update.learning_rate,
        prompt_ids=("train/0",),
        fitness=fitness,
        reward_mean=fitness,
        num_excluded=0,
        mean_digest=digest(mean_D),
    )


def test_of_whole_checkpoints_nothing_is_said(folder: RunFolder) -> None:
    assert rebuilt_at(folder, GENERATIONS).skipped == ()


def test_a_damaged_checkpoint_is_skipped_and_said(folder: RunFolder) -> None:
    state = folder.checkpoints / "generation-000002" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    rebuilt = rebuilt_at(folder, GENERATIONS)
    assert rebuilt.skipped == (f"{state} is damaged: its checksum is not the manifest's",)


def test_a_checkpoint_of_another_mean_is_skipped_and_said(folder: RunFolder) -> None:
    rebuilt = rebuilt_at(folder, GENERATIONS)
    mean_D = rebuilt.strategy.mean_D
    assert mean_D is not None
    path = checkpoint.save(folder.checkpoints, 2, rebuilt.strategy.state(), mean_D + 1)
    again = rebuilt_at(folder, GENERATIONS)
    assert again.skipped == (f"{path} is of another mean than {folder.ledger} says",)
    assert again.mean_digest == rebuilt.mean_digest


def test_a_resume_says_what_it_skipped(
    folder: RunFolder, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it starts a worker."""

    def no_pool(*_: object) -> None:
        raise WorkerError("none here")

    state = folder.checkpoints / "generation-000002" / "state.safetensors"
    state.unlink()
    task = make_task(tiny_config.task, seed=0, prompts_per_generation=1)
    model = resolve_model("tiny", "fp32")
    notes: list[str] = []
    reporter = SilentReporter()
    monkeypatch.setattr(reporter, "note", notes.append)
    monkeypatch.setattr(training, "make_pool", no_pool)
    run = resume_run(folder, tiny_config, model, task)
    try:
        with pytest.raises(WorkerError, match="none here"):
            training.run_training(run, task, model, reporter, 0)
    finally:
        run.close()
    assert f"checkpoint skipped: {state} is missing; the ledger rebuilds what it held" in notes
