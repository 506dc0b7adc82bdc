"""Warm start: a LoRA on a task's solved problems, from which ES and GRPO arms both begin.

TRL's SFTTrainer with PEFT; loss on the solutions alone. As in ESSA (arXiv 2507.04453), whose
GSM8K splits are 1,495 problems for this, 5,978 for the arms and 1,319 to test on.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from es_align.compare.lora import base_model, fresh_lora, trainer_arguments
from es_align.compare.sft_config import SftConfig
from es_align.errors import RunFolderError
from es_align.models import find_model, resolve_model
from es_align.tasks.gsm8k import sft_prompts


@dataclass(frozen=True, slots=True)
class SftResult:
    """What a warm start came to."""

    adapter: str
    base: str
    num_problems: int
    steps: int
    loss: float  # mean over all steps, nats a token
    seconds: float


def train_sft(config: SftConfig, out: Path, say: Callable[[str], None]) -> SftResult:
    """Train the LoRA into a new folder.

    Raises DataError for missing problems, ModelError for a missing model, RunFolderError if the
    folder is not empty; all before the model is loaded.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} exists and is not empty; name another --out")
    prompts = sft_prompts(config.task)
    find_model(config.model)
    started = time.perf_counter()
    path = resolve_model(config.model, "bf16").reference
    rows = [
        {
            "prompt": [dict(message) for message in prompt.messages],
            "completion": [{"role": "assistant", "content": str(prompt.columns["reference"])}],
        }
        for prompt in prompts
    ]
    trainer = SFTTrainer(
        model=base_model(path, config),
        args=_arguments(config, out),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=fresh_lora(config),
        callbacks=[_Told(say)],
    )
    done = trainer.train()
    trainer.save_model(str(out))
    return SftResult(
        adapter=str(out),
        base=config.model,
        num_problems=len(prompts),
        steps=done.global_step,
        loss=float(done.training_loss),
        seconds=time.perf_counter() - started,
    )


class _Told(TrainerCallback):
    """A line a step."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """What TRL measured of the step."""
        if logs is not None and "loss" in logs:
            self._say(
                f"step {state.global_step}/{state.max_steps} | loss {float(logs['loss']):.3f}"
            )


def _arguments(config: SftConfig, out: Path) -> SFTConfig:
    return SFTConfig(
        **trainer_arguments(config, out, config.seed, config.batch_size),
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_train_epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        max_length=config.max_length,
    )
