"""Export of a run as a plain PEFT LoRA, proven before it is called saved.

The adapter is written, loaded again by PEFT, and its logits are compared with those of the run's
own model (base plus population, reference engine), both in fp32, so that nothing but rounding can
differ. Singular values and cores export exactly: the frozen directions are the LoRA's factors.

Its base is the model in full precision, except with basis `quantisation_error`: that adapter holds
the repair, so its base is the quantised checkpoint that the run's engine loads. On the
full-precision weights it would add the rounding error a second time. Both models of the comparison
then have the dequantised weights. The adapter's README.md says which base it is for.
"""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


README = """---
library_name: peft
---
A LoRA by es-align: generation {generation} of a run on {model} in {precision}.

Base: {base}
"""
REPAIR_NOTE = """
It holds the repair of that checkpoint's {precision} rounding, so it belongs on no other form of
{model}: on the full-precision weights it would add the rounding error a second time. PEFT needs the
checkpoint unpacked:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    settings = CompressedTensorsConfig(run_compressed=False)
    base = AutoModelForCausalLM.from_pretrained({base!r}, quantization_config=settings)
    model = PeftModel.from_pretrained(base, ADAPTER)

Should the checkpoint be gone, this makes it again; name it in adapter_config.json:

    es-align quantize {model} FOLDER --scheme {precision}
"""


class AdapterBase(NamedTuple):
    """The model that a run's adapters are for."""

    name: str  # base_model_name_or_path
    plain: Path  # its weights in full precision, dequantised where need be


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An adapter that was reloaded and compared."""

    path: str
    base: str  # the model it is for, as adapter_config.json says
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
    base = adapter_base(config, model)
    space = load_space(config.space, folder.basis)
    mean_D = mean_at(folder, generation)
    draft = out.with_name(f".{out.name}-draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_adapter(draft, space.lora(mean_D), base.name)
    (draft / "README.md").write_text(_readme(config, model, base, generation), encoding="utf-8")

    renderer = Renderer(base.plain)
    tokens = [renderer.render([{"role": "user", "content": probe}]) for probe in PROBES]
    spec = EngineSpec(
        kind="torch",
        model_path=base.plain,
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
    reloaded = peft_logits(base.plain, draft, tokens)

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
    return ExportResult(
        path=str(out),
        base=base.name,
        generation=generation,
        num_layers=len(space.factors),
        max_difference=difference,
        logit_scale=scale,
        max_change=change,
    )


def adapter_base(config: Config, model: ModelPaths) -> AdapterBase:
    """The model as it was named, or the quantised checkpoint that the run repairs."""
    if config.space.basis == "quantisation_error":
        return AdapterBase(str(model.engine), model.dequantised)
    return AdapterBase(model.name, model.reference)


def _readme(config: Config, model: ModelPaths, base: AdapterBase, generation: int) -> str:
    text = README + (REPAIR_NOTE if base.name != model.name else "")
    return text.format(
        generation=generation, model=model.name, precision=config.precision, base=base.name
    )


@torch.inference_mode()
def peft_logits(model_path: Path, adapter: Path, tokens: list[tuple[int, ...]]) -> torch.Tensor:
    """Logits after the last token of each prompt from PEFT's model,
    `[prompts, vocabulary]` fp32.
    """
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(adapter)).eval()
    rows = [loaded(input_ids=torch.tensor([ids])).logits[:, -1].float() for ids in tokens]
    return torch.cat(rows)
