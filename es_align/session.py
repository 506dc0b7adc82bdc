"""What stands between the loop and the disk: a run being begun, recorded, resumed and finished."""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from es_align import checkpoint
from es_align.budget import add, is_spent, spent_in
from es_align.config import Config
from es_align.config_loading import config_digest
from es_align.errors import EsAlignError, LedgerError
from es_align.evaluation import Evaluation, best_of
from es_align.ledger import (
    Ledger,
    LedgerHeader,
    LedgerRecord,
    begun_alone,
    digest,
    optional_floats,
)
from es_align.mirror import Mirror
from es_align.models import ModelPaths
from es_align.rebuild import Rebuilt, first_digest, mean_member, run_at, start_strategy
from es_align.rollout import Rollout
from es_align.run_folder import RunFolder, check_new, check_resumable
from es_align.run_inputs import RunInputs, check_inputs, keep_inputs
from es_align.spaces import Space, load_space, make_space
from es_align.strategies import Update
from es_align.tasks import Task
from es_align.versions import versions
from workers.layers import save_factors
from workers.members import Members
from workers.protocol import Moved
from workers.usage import Usage

BEST = "best"
RARER_IF_LARGE = 10  # checkpoints of whole weights, which are as large as the model in fp32


class Run:
    """A run folder held open for writing: ledger, strategy and what was evaluated so far."""

    def __init__(
        self, folder: RunFolder, config: Config, space: Space, ledger: Ledger, start: Rebuilt
    ) -> None:
        self.folder = folder
        self.config = config
        self.space = space
        self.ledger = ledger
        self.strategy = start.strategy
        self.moves = start.moves  # that a worker makes at its start
        self.skipped = start.skipped  # checkpoints that were of no use, and why
        self.mean_digest = start.mean_digest
        self.started = time.time() - self._seconds_before()
        self.evaluations = [Evaluation.from_row(r) for r in folder.read_rows(folder.evaluations)]
        self.spent = spent_in(folder.read_rows(folder.metrics))
        self._mirror: Mirror | None = None

    @property
    def completed(self) -> int:
        """Generations on disk."""
        return self.ledger.next_generation

    @property
    def is_over(self) -> bool:
        """Whether the generations are done or the budget is spent."""
        config = self.config
        return self.completed >= config.generations or is_spent(config.budget, self.spent)

    @property
    def wall_s(self) -> float:
        """Seconds this run has taken, pauses between resumes not counted."""
        return time.time() - self.started

    def mean_member(self) -> Members:
        """The mean, for an engine."""
        return mean_member(self.config, self.space, self.strategy)

    def moved(self, update: Update, moved: Moved | None) -> Update:
        """Take note of the mean after an update; `moved` is what the workers say of theirs."""
        mean_D = self.strategy.mean_D
        if mean_D is not None:
            self.mean_digest = digest(mean_D)
            return update
        assert moved is not None
        self.mean_digest = moved.digest
        return replace(update, step_norm=moved.step_norm)

    def mirror_to(self, mirror: Mirror | None) -> None:
        """Store from now on what is recorded there too, and what is recorded already."""
        self._mirror = mirror
        if mirror is not None:
            mirror.attach(self.ledger.header)

    def evaluation_at(self, completed: int) -> Evaluation | None:
        """The evaluation after so many generations, if there was one."""
        return next((e for e in self.evaluations if e.generation == completed), None)

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Keep an evaluation of the mean, and its checkpoint if it is the best so far."""
        self.folder.append_rows(self.folder.evaluations, [evaluation.to_row()])
        self.evaluations.append(evaluation)
        row = {
            "generation": evaluation.generation,
            "wall_s": self.wall_s,
            "eval/reward": evaluation.reward,
            "eval/pass_rate": evaluation.pass_rate,
            "eval/pass_rate_low": evaluation.pass_rate_ci95[0],
            "eval/pass_rate_high": evaluation.pass_rate_ci95[1],
            **{f"eval/{name}": value for name, value in evaluation.metrics.items()},
        }
        self.folder.append_rows(self.folder.metrics, [_finite(row)])
        if self._mirror is not None:
            self._mirror.store()
        is_best = best_of(self.evaluations) is evaluation
        if evaluation.generation == self.completed > 0 and is_best and self.save_checkpoint():
            checkpoint.pin(self.folder.checkpoints, BEST, evaluation.generation)

    def record_generation(
        self,
        fitness_M: np.ndarray,
        prompt_ids: tuple[str, ...],
        rollout: Rollout,
        update: Update,
        metrics: Mapping[str, float],
    ) -> None:
        """Commit one generation: rows for people first, then the ledger record that makes it
        count, then both to the mirror.
        """
        done = update.generation + 1
        self._append_rows(done, rollout, metrics)
        self.spent = add(self.spent, metrics)
        self.ledger.append(
            LedgerRecord(
                generation=update.generation,
                seed=self.config.seed,
                sigma=update.sigma,
                learning_rate=update.learning_rate,
                prompt_ids=prompt_ids,
                fitness=optional_floats(fitness_M),
                reward_mean=optional_floats(rollout.reward_mean_M),
                num_excluded=update.num_excluded,
                mean_digest=self.mean_digest,
            )
        )
        if self._mirror is not None:
            self._mirror.store()
        if done % self.config.checkpoint_every == 0:
            self.save_checkpoint()

    def record_usage(self, done: int, usage: Usage) -> None:
        """Write the row of workers.jsonl of a generation, or of a start after so many."""
        self.folder.append_rows(self.folder.workers, [{"generation": done, **usage.row}])

    @contextmanager
    def kept_if_refused(
        self, generation: int, rollout: Rollout, metrics: Mapping[str, float]
    ) -> Iterator[None]:
        """Write the rows for people of a generation from which the strategy cannot go on."""
        try:
            yield
        except EsAlignError:
            self._append_rows(generation + 1, rollout, metrics)
            raise

    def _append_rows(self, done: int, rollout: Rollout, metrics: Mapping[str, float]) -> None:
        row = {"generation": done, "wall_s": self.wall_s, **metrics}
        self.folder.append_rows(self.folder.metrics, [_finite(row)])
        self.folder.append_samples(done, rollout.samples)

    def save_checkpoint(self) -> bool:
        """Write the strategy's state at the last completed generation; False, and nothing, for a
        strategy whose whole state is in the ledger.
        """
        mean_D = self.strategy.mean_D
        if mean_D is None:
            return False
        checkpoint.save(self.folder.checkpoints, self.completed, self.strategy.state(), mean_D)
        return True

    @property
    def is_mean_due(self) -> bool:
        """Whether a worker should store the mean now: in seeded spaces it is the workers' own."""
        config = self.config
        is_large = config.space.kind == "weights"
        every = config.checkpoint_every * (RARER_IF_LARGE if is_large else 1)
        return self.strategy.mean_D is None and self.completed % every == 0

    def store_end(self) -> None:
        """Store what was made at the end in the mirror, if there is one."""
        if self._mirror is not None:
            self._mirror.store_end()

    def close(self) -> None:
        """Give up the folder's lock."""
        self.ledger.close()

    def _seconds_before(self) -> float:
        rows = self.folder.read_rows(self.folder.metrics)
        return max((float(str(row.get("wall_s", 0))) for row in rows), default=0.0)


def begin_run(folder: RunFolder, config: Config, model: ModelPaths, task: Task) -> Run:
    """Start a new run; the ledger is created last, so a kill before leaves nothing that counts.

    Basis `activations` reads the training prompts. Raises ConfigError or ModelError if the space
    cannot be made of this model, RunFolderError if the folder is another's.
    """
    check_new(folder)
    with begun_alone(folder.ledger) as replaced:
        folder.write_config(config)
        keep_inputs(folder.path, RunInputs.of(config, model, task))
        space = make_space(
            config.space, model.reference, engine_path=model.engine, prompts=task.train
        )
        save_factors(space.factors, folder.basis)
        mean_digest = first_digest(config, space.factors, space.dimension)
        header = LedgerHeader(
            run_id=uuid.uuid4().hex,
            config_digest=config_digest(config),
            seed=config.seed,
            dimension=space.dimension,
            basis_digest=space.digest,
            mean_digest=mean_digest,
            versions=versions(),
        )
        start = Rebuilt(start_strategy(config, header), (), mean_digest)
        folder.drop_rows_after(-1)
        if replaced is not None:
            replaced.path.unlink()
        return Run(folder, config, space, Ledger.create(folder.ledger, header), start)


def resume_run(folder: RunFolder, config: Config, model: ModelPaths, task: Task) -> Run:
    """Take up a run after its last complete generation.

    Raises RunFolderError if there is none or what it was given changed, LedgerError if the ledger
    is damaged, the basis is not the one the run was begun with, or the state cannot be rebuilt.
    """
    check_resumable(folder, config)
    check_inputs(folder.path, RunInputs.of(config, model, task))
    ledger = Ledger.open(folder.ledger, for_append=True)
    space = load_space(config.space, folder.basis)
    if space.digest != ledger.header.basis_digest:
        raise LedgerError(
            f"{folder.basis} has digest {space.digest[:12]}, the ledger was begun with "
            f"{ledger.header.basis_digest[:12]}; restore the file from a copy"
        )
    folder.drop_rows_after(ledger.next_generation)
    folder.write_config(config)
    start = run_at(folder, config, ledger, ledger.next_generation)
    return Run(folder, config, space, ledger, start)


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    """Without what could not be measured: JSON has no NaN."""
    return {name: value for name, value in row.items() if np.isfinite(value)}
