"""The configuration of a comparison: what all arms share, what each is, and what each may spend.

`shared` holds settings of a run that no arm may change, so that arms differ by their method alone.
An arm of kind `es` adds settings of a run; one of kind `grpo` has TRL's, under TRL's names.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from es_align.budget import BudgetConfig
from es_align.config import TaskConfig
from es_align.config_search import LINEAR_LAYERS, Count, LayerNames, Positive, Section

# Settings of a run that make up the question; an arm answers it, and may not put another one.
QUESTION = ("model", "task", "reward", "max_new_tokens")
ASKED_OF_ALL = ("task", "max_new_tokens")  # of `evaluation`, the same
HeldoutScore = Literal["pass_rate", "reward"]
OWN = ("seed", "budget", "run_dir", "mirror")  # that a comparison sets itself


class LoraSettings(Section):
    """What TRL trains a LoRA with, whatever its loss; names are TRL's and PEFT's."""

    lora_r: Count = 16
    lora_alpha: Count = 32
    target_modules: LayerNames = LINEAR_LAYERS
    micro_batch: Count | None = None
    """Of a step, so many in one forward and backward pass, `per_device_train_batch_size`; none: the
    whole step. Must divide it."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights and of the arithmetic; the LoRA is in float32 with either."""
    gradient_checkpointing: bool = True
    """Less memory for a second forward pass, TRL's default."""


class GrpoSettings(LoraSettings):
    """A GRPO arm, by TRL's GRPOTrainer as it is; names and meanings are TRL's. With
    `start` rank, alpha and modules are the adapter's own.
    """

    learning_rate: Positive = 1e-5
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions of each prompt in a step, which are compared with each other."""
    prompts_per_step: Count = 4
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL term."""
    epsilon: Positive = 0.2
    num_iterations: Count = 1
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    mask_truncated_completions: bool = False
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """The learning rate is constant after them, since a budget may end a run at any step."""
    max_grad_norm: Positive = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    use_vllm: bool | None = None
    """Generation by vLLM, in the same process; none: on GPUs."""
    vllm_gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.3
    every: Count = 10
    """Steps between evaluations."""

    @property
    def completions_per_step(self) -> int:
        """What a step of the optimiser is made of."""
        return self.num_generations * self.prompts_per_step

    @model_validator(mode="after")
    def _divides(self) -> "GrpoSettings":
        step, part = self.completions_per_step, self.micro_batch
        if part is not None and step % part:
            raise ValueError(
                f"micro_batch={part} must divide num_generations * prompts_per_step = {step}"
            )
        return self


class ArmConfig(Section):
    """One method with its settings."""

    kind: Literal["es", "grpo"]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """es: settings of a run beside the shared ones; grpo: see `GrpoSettings`."""
    sweep: dict[str, list[JsonValue]] = Field(default_factory=dict)
    """Dotted settings and values to try on the first seed, in all combinations; the one that is
    best there on the held-out prompts goes on with the other seeds."""


class DriftConfig(Section):
    """What else became of the model."""

    task: TaskConfig | None = None
    """A task that no arm trains on, asked before and after; none: not asked."""
    max_new_tokens: Count | None = None


class Measured(Section):
    """How a job is measured once it has trained."""

    score: HeldoutScore = "pass_rate"
    """Held-out score that arms are compared by; a reward without a verdict has only the reward."""
    drift: DriftConfig = DriftConfig()


class CompareConfig(Measured):
    """A whole comparison."""

    shared: dict[str, JsonValue]
    """Settings of a run that all arms have: model, task, reward, max_new_tokens, evaluation, ..."""
    start: str | None = None
    """Folder of a PEFT LoRA from which every arm starts (`es-align sft`)."""
    budget: BudgetConfig
    """Of each arm and seed; loading and evaluation are not counted."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    arms: Annotated[dict[str, ArmConfig], Field(min_length=1)]
    out: str | None = None
    """Folder; none: runs/<config name>."""

    @model_validator(mode="after")
    def _sound(self) -> "CompareConfig":
        if not self.budget.is_limited:
            raise ValueError("budget must limit seconds, completions or tokens; set one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} names one twice")
        for name in self.arms:
            if not name or not set(name) <= NAME_LETTERS:
                raise ValueError(
                    f"arms.{name}: a name is made of letters, digits, '-' and '_', for it becomes "
                    "a folder's"
                )
        return self


NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
