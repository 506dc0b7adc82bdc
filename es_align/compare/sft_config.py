"""The configuration of a warm start."""

from typing import Annotated

from pydantic import Field, model_validator

from es_align.compare.config import LoraSettings
from es_align.config import TaskConfig
from es_align.config_search import ATTENTION_LAYERS, Count, LayerNames, Positive


class SftConfig(LoraSettings):
    """A LoRA on a task's solved problems, by TRL's SFTTrainer; names are TRL's."""

    model: str = "smollm2-135m-instruct"
    """Hub id, directory, or a bundled name."""
    task: TaskConfig
    """gsm8k with num_sft: what is learned here, no run of these settings asks."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    target_modules: LayerNames = ATTENTION_LAYERS
    """ESSA's: the attention's projections."""
    learning_rate: Positive = 2e-4
    num_train_epochs: Positive = 1.0
    max_steps: Count | None = None
    """Steps, in place of epochs."""
    batch_size: Count = 16
    """Problems in a step."""
    max_length: Count = 1024
    """Tokens of a problem with its solution; longer ones are cut."""
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
