"""Export of a run as a plain PEFT LoRA on the original base, proven before it is called saved.

The adapter is written, loaded again by PEFT, and its logits are compared with those of the run's
own model (base plus population, reference engine), both in fp32, so that nothing but rounding can
differ. Singular values export exactly: the frozen directions are the LoRA's factors.
"""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from es_align.adapters import save_adapter
from es_align.config import Config
from es_align.errors import ModelError
from es_align.models import ModelPaths
from es_align.rebuild import mean_at
from es_align.run_folder import RunFolder
from es_align.spaces import load_space
from workers.engines.base import EngineSpec, Request
from workers.engines.torch_engine import TorchEngine
from workers.rendering import Renderer

# Half a unit in the last place of bf16, relative to the largest logit.
TOLERANCE = 2.0**-9
PROBES = (
    "Say something about the sea.",
    "List two facts about bread, in lowercase.",
    "What is 17 plus 25? Explain each step before you answer.",
)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An adapter that was reloaded and compared."""

    path: str
    generation: int
    num_layers: int
    max_difference: float  # largest difference of a logit between PEFT's model and the run's
    logit_scale: float  # largest logit
    max_change: float  # largest difference of a logit between the run's model and the bare base


def export_adapter(
    folder: RunFolder,
    config: Config,
    model: ModelPaths,
    generation: int,
    out: Path,
    *,
    is_replaced: bool = False,
) -> ExportResult:
    """Write generation `generation` (that many done) to `out`, reload, compare.

    Raises ModelError if the reloaded adapter is not the run's model; `out` is then not written.
    """
    space = load_space(config.space, folder.basis)
    mean_D = mean_at(folder, generation)
    draft = out.with_name(f".{out.name}-draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_adapter(draft, space.lora(mean_D), model.name)

    renderer = Renderer(model.reference)
    tokens = [renderer.render([{"role": "user", "content": probe}]) for probe in PROBES]
    spec = EngineSpec(
        kind="torch",
        model_path=model.reference,
        precision="fp32",
        factors_path=folder.basis,
        max_members=1,
        max_model_len=config.workers.max_model_len,
        kv_cache_gb=config.workers.kv_cache_gb,
        num_threads=torch.get_num_threads(),
    )
    engine = TorchEngine(spec, renderer)
    engine.set_members(space.mean_member(mean_D))
    own = torch.cat([engine.logits([Request(ids, 0, 0)]) for ids in tokens])
    bare = torch.cat([engine.logits([Request(ids, -1, 0)]) for ids in tokens])
    del engine
    gc.collect()
    reloaded = peft_logits(model.reference, draft, tokens)

    scale = float(own.abs().max())
    difference = float((own - reloaded).abs().max())
    if difference > TOLERANCE * scale:
        shutil.rmtree(draft)
        raise ModelError(
            f"the adapter of generation {generation} reloaded by PEFT differs from the run's model "
            f"by {difference:.3g} in a logit (limit {TOLERANCE * scale:.3g}), so it was not saved; "
            "please report this with the versions in the run's ledger"
        )
    if is_replaced:
        shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(out)
    change = float((own - bare).abs().max())
    return ExportResult(str(out), generation, len(space.factors), difference, scale, change)


@torch.inference_mode()
def peft_logits(model_path: Path, adapter: Path, tokens: list[tuple[int, ...]]) -> torch.Tensor:
    """Logits after the last token of each prompt from PEFT's model,
    `[prompts, vocabulary]` fp32.
    """
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(adapter)).eval()
    rows = [loaded(input_ids=torch.tensor([ids])).logits[:, -1].float() for ids in tokens]
    return torch.cat(rows)
