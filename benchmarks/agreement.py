"""How far an engine is from itself when the same requests come in another order or another mode.

    python benchmarks/agreement.py --precisions bf16 int8 int4

Floating-point sums depend on which rows share a product, so vLLM's greedy answers do too. Counted
are the answers that stay the same token for token, for unmodified vLLM and for a population of 16
on the same prompts: the population may not be further from itself than vLLM is.
"""

import argparse
import dataclasses
import datetime
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from es_align.bench.hardware import find_hardware
from es_align.bench.prompts import make_requests
from es_align.config import Precision
from es_align.models import resolve_model
from es_align.spaces import layers_for
from es_align.terminal import quiet_libraries
from workers.engines.base import EngineSpec, Request
from workers.engines.vllm_arms import make_members
from workers.engines.vllm_engine import VllmEngine
from workers.layers import PerturbedLayer, save_factors
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

MEMBERS, REQUESTS, PROMPT_TOKENS, NEW_TOKENS = 16, 128, 32, 32
SIGMA, SEED, GENERATION = 0.05, 0, 0


class Mode(NamedTuple):
    """One way to answer the same requests."""

    overrides: Mapping[str, object] = {}
    is_reversed: bool = False
    is_compiled: bool = False


MODES = {
    "as it is": Mode(),
    "again": Mode(),
    "reversed order": Mode(is_reversed=True),
    "no prefix cache": Mode({"enable_prefix_caching": False}),
    "chunked prefill": Mode({"enable_chunked_prefill": True, "max_num_batched_tokens": 256}),
    "32 at once": Mode({"max_num_seqs": 32}),
}


def answers(
    spec: EngineSpec, layers: Sequence[PerturbedLayer], mode: Mode, vocabulary: int
) -> list[tuple[int, ...]]:
    """Greedy tokens of every request, in order; without factors those of unmodified vLLM."""
    engine = VllmEngine(
        dataclasses.replace(spec, is_compiled=mode.is_compiled),
        Renderer(spec.model_path),
        mode.overrides,
    )
    try:
        if spec.factors_path is not None:
            engine.set_members(make_members(layers, MEMBERS, SEED, SIGMA, GENERATION))
        asked = make_requests(
            seed=SEED,
            round_index=0,
            members=MEMBERS,
            requests=REQUESTS,
            prompt_tokens=PROMPT_TOKENS,
            vocabulary=vocabulary,
        )
        is_base = spec.factors_path is None
        requests = [
            Request(one.token_ids, BASE_MEMBER if is_base else one.member, 0) for one in asked
        ]
        order = requests[::-1] if mode.is_reversed else requests
        completions = engine.generate(order, Sampling(NEW_TOKENS, ignore_eos=True))
        tokens = [completion.token_ids for completion in completions]
        return tokens[::-1] if mode.is_reversed else tokens
    finally:
        engine.close()


def shares(spec: EngineSpec, layers: Sequence[PerturbedLayer], vocabulary: int) -> dict[str, float]:
    """Share of answers equal to those of the first mode, by mode."""
    found = {name: answers(spec, layers, mode, vocabulary) for name, mode in MODES.items()}
    first = next(iter(found.values()))
    return {
        name: sum(a == b for a, b in zip(first, tokens, strict=True)) / REQUESTS
        for name, tokens in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "int8", "int4"])
    parser.add_argument("--space", default="weights", choices=["singular_values", "weights"])
    options = parser.parse_args()
    quiet_libraries()
    table = Table("", *list(MODES)[1:], box=None)
    for name in options.precisions:
        precision: Precision = name
        model = resolve_model(options.model, precision)
        layers = layers_for(options.space, 1, model.source)
        vocabulary = Renderer(model.engine).tokenizer.vocab_size
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "factors.safetensors"
            save_factors(layers, path)
            base = EngineSpec(
                "vllm", model.engine, precision, None, MEMBERS, 256, 0.5, find_hardware().num_cores
            )
            for label, spec in (
                ("vLLM", base),
                ("population", dataclasses.replace(base, factors_path=path)),
            ):
                found = shares(spec, layers, vocabulary)
                row = [f"{100 * share:.0f} %" for share in list(found.values())[1:]]
                table.add_row(f"{precision}, {label}", *row)
    console = Console(width=120)
    console.print(table)
    console.print(f"{datetime.date.today()}, {find_hardware()}")


if __name__ == "__main__":
    main()
