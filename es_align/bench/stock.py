"""What the stock multi-LoRA arm needs: an adapter folder a member, random, of the space's rank.

This is the published route of evolution on adapters: each member's LoRA is a file that vLLM loads.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from es_align.adapters import save_adapter
from kernels.noise import Purpose, philox

# vLLM pads smaller adapters to the next of these with zeros.
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def slot_rank(rank: int) -> int | None:
    """vLLM's `max_lora_rank` for adapters of this rank; None if there is none as large."""
    return next((allowed for allowed in MAX_LORA_RANKS if allowed >= rank), None)


def write_adapters(
    folder: Path,
    shapes: Mapping[str, tuple[int, int]],
    *,
    rank: int,
    members: int,
    seed: int,
    sigma: float,
) -> None:
    """Write the bf16 adapters `0` to `members - 1` for layers of these (out, in) shapes.

    Both factors are normal; the product's entries have standard deviation `sigma` times that of a
    layer initialised for its width, so that answers change and stay finite.
    """
    for member in range(members):
        generator = philox(seed, Purpose.DATA, member)
        layers = {}
        for name, (num_out, num_in) in shapes.items():
            down_RI = torch.from_numpy(generator.standard_normal((rank, num_in), dtype="float32"))
            up_OR = torch.from_numpy(generator.standard_normal((num_out, rank), dtype="float32"))
            scale = sigma * (rank * num_in) ** -0.5
            layers[name] = (down_RI.bfloat16(), (scale * up_OR).bfloat16())
        save_adapter(folder / str(member), layers, "base")
