"""The GRPO arm: TRL's GRPOTrainer as it is, on the task, rewards and prompts of the ES arms.

GRPO: Shao et al. 2024, arXiv 2402.03300; the loss, its normalisation and clipping are TRL's. Ours
is what both methods must share: the prompts' token ids are checked to be the ones an ES worker
renders, completions are scored by the same scorer, and every so many steps the LoRA is saved, to
be evaluated afterwards by the engine that evaluates the ES arms.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from es_align.budget import BudgetConfig, Spent, is_spent
from es_align.compare.config import GrpoSettings
from es_align.compare.jobs import Job
from es_align.compare.lora import base_model, fresh_lora, trainer_arguments
from es_align.compare.machine import this_machine
from es_align.compare.records import START, Trained, adapter_folder
from es_align.errors import ConfigError, WorkerError
from es_align.models import resolve_model
from es_align.pooling import worker_cores
from es_align.reward_checks import reward_specs
from es_align.task_checks import make_checked_task
from es_align.tasks import Task
from es_align.versions import PACKAGES, TRAINERS, versions
from rewards.base import Prompted
from rewards.scoring import FAULT, Scorer
from rewards.specs import specs_or_own
from workers.footprint import footprint
from workers.protocol import Prompt
from workers.rendering import Renderer

ENDLESS = 1_000_000  # steps: the budget ends the run
ROW = "row"  # column with a prompt's place in the training pool
Say = Callable[[str], None]


def train_grpo(job: Job, folder: Path, imports_rss_bytes: int, say: Say) -> Trained:
    """Train until the budget is spent; adapters are in `folder`, in a folder a step.

    Raises ConfigError if TRL would ask other token ids than an ES worker, WorkerError if the budget
    has no time for one step.
    """
    assert job.grpo is not None
    started, config, grpo = time.perf_counter(), job.config, job.grpo
    task = make_checked_task(config)
    path = resolve_model(config.model, "bf16").reference
    renderer = Renderer(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    longest = check_prompts(renderer, tokenizer, task.train)
    specs = specs_or_own(reward_specs(config), task.reward_name)
    set_seed(job.seed)  # of a fresh LoRA; the trainer sets it only after this
    with Scorer(specs, num_processes=worker_cores(config)) as scorer:
        scorer.start()
        counts = Counts(task, scorer)
        progress = Progress(config.budget, grpo.every, folder, counts, say)
        trainer = GRPOTrainer(
            model=_model(path, grpo, job.start),
            reward_funcs=counts.reward,
            args=_arguments(job, folder, longest),
            train_dataset=_dataset(task.train),
            processing_class=tokenizer,
            callbacks=[progress],
        )
        trainer.train()
    if not progress.saved[1:]:
        raise WorkerError(
            f"{job.name} made no step within its budget; raise it, or make the step smaller"
        )
    return Trained(
        steps=tuple(progress.saved),
        points=(),
        footprint=footprint(imports_rss_bytes),
        wall_s=time.perf_counter() - started,
        machine=this_machine(
            torch.cuda.device_count() or torch.get_num_threads(), versions((*PACKAGES, *TRAINERS))
        ),
    )


class Counts:
    """Scores what TRL sampled, as an ES worker would, and counts it."""

    def __init__(self, task: Task, scorer: Scorer) -> None:
        self.completions = 0
        self.tokens = 0
        self._task = task
        self._scorer = scorer

    def reward(
        self,
        completions: Sequence[Sequence[Mapping[str, str]]],
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        **_: object,
    ) -> list[float | None]:
        """TRL's reward function: one number a completion, None for one without a score."""
        prompts = [self._task.train[place] for place in row]
        items = [
            Prompted(messages[-1]["content"], prompt.messages, prompt.columns)
            for messages, prompt in zip(completions, prompts, strict=True)
        ]
        scores = self._scorer.score(items)
        self.completions += len(items)
        self.tokens += sum(map(len, completion_ids))
        faults = Counter(score.reason for score in scores if score.reason.startswith(FAULT))
        if 2 * faults.total() > len(scores):  # an ES run stops where half of its members lack one
            raise WorkerError(
                f"the reward failed on {faults.total()} of {len(scores)} completions of a step "
                f"({', '.join(faults)}), too many to learn from; repair it"
            )
        return [score.reward for score in scores]


@dataclass
class Progress(TrainerCallback):
    """Times each step, saves the LoRA when an evaluation is due, and ends the run."""

    budget: BudgetConfig
    every: int
    folder: Path
    counts: Counts
    say: Say

    def __post_init__(self) -> None:
        self.saved: list[tuple[int, Spent]] = [START]
        self._seconds = 0.0
        self._began = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Generation, scoring and the backward passes come after this."""
        self._began = time.perf_counter()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PeftModel | None = None,
        **_: Any,
    ) -> None:
        """The optimiser has stepped."""
        now = time.perf_counter()
        self._seconds += now - self._began
        spent = Spent(self._seconds, self.counts.completions, self.counts.tokens)
        is_over, step = is_spent(self.budget, spent), state.global_step
        if is_over or step % self.every == 0:
            assert model is not None
            model.save_pretrained(str(adapter_folder(self.folder, step)))
            self.saved.append((step, spent))
        control.should_training_stop = control.should_training_stop or is_over
        self.say(f"step {step} | {now - self._began:.1f}s | {spent.seconds:.0f} s of training")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """What TRL measured of the step."""
        known = logs or {}
        names = ("reward", "reward_std", "completions/mean_length", "kl", "grad_norm")
        told = [f"{name} {float(known[name]):.3g}" for name in names if name in known]
        if told:
            self.say(f"step {state.global_step} | {' | '.join(told)}")


def check_prompts(
    renderer: Renderer, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> int:
    """Refuse prompts whose token ids, as TRL makes them, are not those that an ES worker asks;
    returns the tokens of the longest.

    Raises ConfigError naming the first.
    """
    longest = 0
    for prompt in prompts:
        made = tokenizer.apply_chat_template(
            conversation=[[dict(message) for message in prompt.messages]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        assert not isinstance(made, str)
        (ids,) = made["input_ids"]  # pyright: ignore[reportArgumentType, reportCallIssue]
        if tuple(ids) != renderer.render(prompt.messages):
            raise ConfigError(
                f"prompt {prompt.prompt_id} has {len(ids)} tokens as TRL renders it and "
                f"{len(renderer.render(prompt.messages))} as workers do: the arms would be asked "
                "different things; use a model whose chat template gives the same for both"
            )
        longest = max(longest, len(ids))
    return longest


def _dataset(prompts: Sequence[Prompt]) -> Dataset:
    rows = [
        {"prompt": [dict(message) for message in prompt.messages], ROW: place}
        for place, prompt in enumerate(prompts)
    ]
    return Dataset.from_list(rows)


def _model(path: Path, grpo: GrpoSettings, start: str | None) -> PeftModel:
    model = base_model(path, grpo)
    if start is not None:
        return PeftModel.from_pretrained(model, start, is_trainable=True)
    made = get_peft_model(model, fresh_lora(grpo))
    assert isinstance(made, PeftModel)
    return made


def _arguments(job: Job, folder: Path, longest_prompt: int) -> GRPOConfig:
    grpo, config = job.grpo, job.config
    assert grpo is not None
    return GRPOConfig(
        **trainer_arguments(grpo, folder, job.seed, grpo.completions_per_step),
        learning_rate=grpo.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=grpo.warmup_steps,
        max_steps=ENDLESS,
        num_generations=grpo.num_generations,
        max_completion_length=config.max_new_tokens,
        temperature=grpo.temperature,
        top_p=grpo.top_p,
        beta=grpo.beta,
        epsilon=grpo.epsilon,
        num_iterations=grpo.num_iterations,
        loss_type=grpo.loss_type,
        scale_rewards=grpo.scale_rewards,
        mask_truncated_completions=grpo.mask_truncated_completions,
        max_grad_norm=grpo.max_grad_norm,
        weight_decay=grpo.weight_decay,
        use_vllm=torch.cuda.is_available() if grpo.use_vllm is None else grpo.use_vllm,
        vllm_gpu_memory_utilization=grpo.vllm_gpu_memory_utilization,
        # Left out, vLLM's cache must hold all positions that the model has.
        vllm_max_model_length=longest_prompt + config.max_new_tokens,
    )
