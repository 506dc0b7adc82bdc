"""Export of a run, proven before it is called saved: a plain PEFT LoRA, or the whole checkpoint of
a run that moved whole weights.

What was written is loaded again by PEFT or transformers, and its logits are compared with those of
the run's own model (reference engine), both in fp32, so that nothing but rounding can differ.
Adapters export exactly: a space's frozen directions are the LoRA's factors. Whole weights are
rounded to the checkpoint's own dtype, once.

An adapter's base is the model in full precision, except with basis `quantisation_error`: that
adapter holds the repair, so its base is the quantised checkpoint that the run's engine loads. On
the full-precision weights it would add the rounding error a second time. Both models of the
comparison then have the dequantised weights. The adapter's README.md says which base it is for.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from es_align.adapters import save_adapter
from es_align.bundled import BUNDLED_MODELS
from es_align.config import Config
from es_align.errors import ModelError
from es_align.models import ModelPaths
from es_align.rebuild import mean_at, means_at
from es_align.run_folder import RunFolder
from es_align.spaces import AdapterSpace, load_space
from es_align.stored_weights import StoredWeights
from workers.engines.base import EngineSpec, Request
from workers.engines.torch_engine import TorchEngine
from workers.members import Members
from workers.rendering import Renderer

# Half a unit in the last place of bf16, relative to the largest logit.
TOLERANCE = 2.0**-9
# And far less than what the run changed, so that an export without its adapter is found; of fp32.
CHANGE_SHARE, ROUNDING = 8, 2.0**-16
PROBES = (
    "Say something about the sea.",
    "List two facts about bread, in lowercase.",
    "What is 17 plus 25? Explain each step before you answer.",
)

Tokens = list[tuple[int, ...]]


README = """---
library_name: peft
---
A LoRA by es-align: generation {generation} of a run on {model} in {precision}.

Base: {base}
"""
BUNDLED_NOTE = """
That is no hub id: the model comes with es-align, and the machine that wrote this has it in
{plain}. Give that folder to PEFT:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained({plain!r})
    model = PeftModel.from_pretrained(base, ADAPTER)
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
    """What was written, reloaded and compared."""

    path: str
    base: str  # the model it is for, as adapter_config.json says
    generation: int
    num_layers: int
    max_difference: float  # largest difference of a logit between the reloaded model and the run's
    logit_scale: float  # largest logit
    max_change: float  # largest difference of a logit between the run's model and the bare base


def export_run(
    folder: RunFolder,
    config: Config,
    model: ModelPaths,
    generation: int,
    out: Path,
    *,
    is_replaced: bool = False,
) -> ExportResult:
    """Write generation `generation` (that many done) to the folder `out`, reload, compare.

    Raises ModelError if what is reloaded is not the run's model; `out` is then not written.
    """
    place = out.resolve()  # "." has no name
    draft = place.with_name(f".{place.name}-draft")
    shutil.rmtree(draft, ignore_errors=True)
    base = adapter_base(config, model)
    space = load_space(config.space, folder.basis)
    renderer = Renderer(base.plain)
    tokens = [renderer.render([{"role": "user", "content": probe}]) for probe in PROBES]
    if isinstance(space, AdapterSpace):
        mean_D = mean_at(folder, generation)
        save_adapter(draft, space.lora(mean_D), base.name)
        (draft / "README.md").write_text(_readme(config, model, base, generation), encoding="utf-8")
        engine = _reference_engine(base.plain, folder.basis)
        bare, own = _logits_with_member(engine, tokens, space.mean_member(mean_D))
        reloaded = peft_logits(base.plain, draft, tokens)
    else:
        weights = dict(means_at(folder, generation).weights())
        _save_checkpoint(draft, base.plain, weights)
        engine = _reference_engine(base.plain, None)
        bare, own = _logits_with_weights(engine, tokens, weights, draft)
        del weights
        reloaded = _checkpoint_logits(draft, tokens)
    del engine

    scale = float(own.abs().max())
    difference = float((own - reloaded).abs().max())
    change = float((own - bare).abs().max())
    limit = min(TOLERANCE * scale, max(change / CHANGE_SHARE, ROUNDING * scale))
    if not difference <= limit:  # not-a-number is a difference, too
        shutil.rmtree(draft)
        raise ModelError(
            f"generation {generation} as exported and reloaded differs from the run's model by "
            f"{difference:.3g} in a logit (limit {limit:.3g}), so it was not saved; "
            "please report this with the versions in the run's ledger"
        )
    _put(draft, place, is_replaced=is_replaced)
    return ExportResult(
        path=str(out),
        base=base.name,
        generation=generation,
        num_layers=len(space.factors),
        max_difference=difference,
        logit_scale=scale,
        max_change=change,
    )


def _put(draft: Path, place: Path, *, is_replaced: bool) -> None:
    """Move a finished folder to its place. An empty folder there is filled, not replaced: a shell
    that stands in it would see nothing of another one.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not any(place.iterdir()):
        for entry in draft.iterdir():
            shutil.move(entry, place)
        draft.rmdir()
        return
    if is_replaced:
        shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)


def adapter_base(config: Config, model: ModelPaths) -> AdapterBase:
    """The model as it was named, or the quantised checkpoint that the run repairs."""
    if config.space.basis == "quantisation_error":
        return AdapterBase(str(model.engine), model.dequantised)
    return AdapterBase(model.name, model.reference)


def _readme(config: Config, model: ModelPaths, base: AdapterBase, generation: int) -> str:
    notes = (BUNDLED_NOTE, REPAIR_NOTE)
    applies = (base.name in BUNDLED_MODELS, base.name != model.name)
    text = README + "".join(note for note, is_due in zip(notes, applies, strict=True) if is_due)
    return text.format(
        generation=generation,
        model=model.name,
        precision=config.precision,
        base=base.name,
        plain=str(base.plain),
    )


def peft_logits(model_path: Path, adapter: Path, tokens: Tokens) -> torch.Tensor:
    """Logits after the last token of each prompt from PEFT's model,
    `[prompts, vocabulary]` fp32.
    """
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    return _last_logits(PeftModel.from_pretrained(base, str(adapter)), tokens)


def _checkpoint_logits(model_path: Path, tokens: Tokens) -> torch.Tensor:
    return _last_logits(
        AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32), tokens
    )


@torch.inference_mode()
def _last_logits(model: torch.nn.Module, tokens: Tokens) -> torch.Tensor:
    rows = [model.eval()(input_ids=torch.tensor([ids])).logits[:, -1].float() for ids in tokens]
    return torch.cat(rows)


def _logits_with_member(
    engine: TorchEngine, tokens: Tokens, member: Members
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the base and of the member, `[prompts, vocabulary]` fp32."""
    engine.set_members(member)
    bare, own = (
        torch.cat([engine.logits([Request(ids, slot, 0)]) for ids in tokens]) for slot in (-1, 0)
    )
    return bare, own


def _logits_with_weights(
    engine: TorchEngine, tokens: Tokens, weights: dict[str, torch.Tensor], draft: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the base and of these weights, rounded as they are saved, `[prompts, vocabulary]` fp32."""
    requests = [[Request(ids, -1, 0)] for ids in tokens]
    bare = torch.cat([engine.logits(one) for one in requests])
    saved = StoredWeights(draft)
    dtypes = {name: saved.matrix(name).dtype for name in weights}
    engine.write_weights((name, w.to(dtypes[name]).float()) for name, w in weights.items())
    return bare, torch.cat([engine.logits(one) for one in requests])


def _reference_engine(model_path: Path, factors_path: Path | None) -> TorchEngine:
    spec = EngineSpec(
        kind="torch",
        model_path=model_path,
        precision="fp32",
        factors_path=factors_path,
        max_members=1,
        max_model_len=0,
        kv_cache_gb=0,
        num_threads=torch.get_num_threads(),
        device="cpu",  # where what is reloaded is, too
    )
    return TorchEngine(spec, Renderer(model_path))


def _save_checkpoint(target: Path, source: Path, weights: dict[str, torch.Tensor]) -> None:
    """The checkpoint in `source` with these weights in place of its own, in its own dtypes."""
    target.mkdir(parents=True)

    def replaced(key: str, tensor: torch.Tensor) -> torch.Tensor:
        weight_OI = weights.get(key.removesuffix(".weight"))
        return tensor if weight_OI is None else weight_OI.to(tensor.dtype)

    StoredWeights(source).write_plain(target, replaced)
