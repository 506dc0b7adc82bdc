"""The configuration of a warm start."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from es_align.config import TaskConfig
from es_align.config_search import Count, Positive, Section


class SftConfig(Section):
    """A LoRA on a task's solved problems, by TRL's SFTTrainer; names are TRL's and PEFT's."""

    model: str = "smollm2-135m-instruct"
    """Hub id, directory, or a bundled name."""
    task: TaskConfig
    """gsm8k with num_sft: what is learned here, no run of these settings asks."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    lora_r: Count = 16
    lora_alpha: Count = 32
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    )
    """ESSA's: the attention's projections."""
    learning_rate: Positive = 2e-4
    num_train_epochs: Positive = 1.0
    max_steps: Count | None = None
    """Steps, in place of epochs."""
    batch_size: Count = 16
    """Problems in a step."""
    micro_batch: Count | None = None
    """Problems in one pass; none: all of a step. Must divide batch_size."""
    max_length: Count = 1024
    """Tokens of a problem with its solution; longer ones are cut."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = True
    out: str | None = None
    """Folder of the adapter; none: runs/<config name>."""

    @model_validator(mode="after")
    def _has_solutions(self) -> "SftConfig":
        if self.task.name != "gsm8k":
            raise ValueError(
                f"task.name={self.task.name} has no solved problems to learn from; only gsm8k has"
            )
        if self.task.num_sft == 0:
            raise ValueError(
                "task.num_sft=0 keeps no problem for a warm start; set it, to 1495 as ESSA has it"
            )
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} must divide batch_size={self.batch_size}"
            )
        return self
