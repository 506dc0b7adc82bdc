"""What the figures of a bench were measured on."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.processor import PROCESSOR_INFO, read_processor

# What decides which kernels vLLM chooses on a processor.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine."""

    cpu: str
    num_cores: int  # that this process may use
    flags: tuple[str, ...]  # of FLAGS, those it has
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join([*self.gpus, self.cpu, f"{self.num_cores} cores", *self.flags[1:]])


def find_hardware(info: Path = PROCESSOR_INFO) -> Hardware:
    """This machine."""
    processor = read_processor(info)
    return Hardware(
        cpu=processor.name,
        num_cores=len(os.sched_getaffinity(0)),
        flags=tuple(flag for flag in FLAGS if flag in processor.flags),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
    )
