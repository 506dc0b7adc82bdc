"""Log probabilities of given tokens under the engine that runs a precision.

The very kernels that generate also score: W8A8 quantises activations, which no dequantised copy of
the weights would show.
"""

from collections.abc import Sequence

import numpy as np

from workers.engines.base import EngineSpec
from workers.engines.vllm_engine import engine_arguments  # first: sets what vLLM reads at import

# isort: split
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.logprobs import PromptLogprobs


def load_scorer(spec: EngineSpec) -> LLM:
    """The unmodified engine, for windows shorter than `spec.max_model_len`."""
    return LLM(**engine_arguments(spec))  # pyright: ignore[reportArgumentType]


def log_probabilities(llm: LLM, windows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Natural log probability of every token but the first of each window, float64."""
    parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    prompts = [TokensPrompt(prompt_token_ids=list(window)) for window in windows]
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    return [
        _scores(window, output.prompt_logprobs)
        for window, output in zip(windows, outputs, strict=True)
    ]


def _scores(window: Sequence[int], rows: PromptLogprobs | None) -> np.ndarray:
    assert rows is not None
    pairs = zip(window[1:], rows[1:], strict=True)
    return np.array([row[token].logprob for token, row in pairs if row is not None])
