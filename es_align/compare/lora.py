"""What TRL's trainers of a LoRA are given, whatever their loss."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel

from es_align.compare.config import LoraSettings


def base_model(path: Path, settings: LoraSettings) -> PreTrainedModel:
    """The checkpoint in the settings' dtype."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, settings.dtype))


def fresh_lora(settings: LoraSettings) -> LoraConfig:
    """A LoRA that changes nothing yet."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )


def trainer_arguments(settings: LoraSettings, folder: Path, seed: int, step: int) -> dict[str, Any]:
    """Of GRPOConfig and SFTConfig alike, for steps of `step` completions or problems; nothing is
    saved or reported by the trainer itself.
    """
    micro_batch = step if settings.micro_batch is None else settings.micro_batch
    has_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder / "trainer"),
        "seed": seed,
        "data_seed": seed,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": step // micro_batch,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": settings.dtype == "bfloat16",
        "use_cpu": not has_gpu,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": has_gpu,
    }
