"""The fast engine: vLLM, in process,
with every member of the population in one continuous batch.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import cast

import numpy as np

# Read by vLLM at import: one process (a worker is one already), the runner whose rows we map,
# no reporting home.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from workers.engines.base import Completion, EngineSpec, Request
from workers.engines.vllm_worker import CONFIG_KEY, MEMBER_ARGUMENT
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

CANARY_TOKENS = 1
BYTES_PER_GB = 2**30
MAX_SEQUENCES = 256
MAX_BATCHED_TOKENS = 2048


class VllmEngine:
    """Population engine over vLLM (see `workers.engines.base.Engine`)."""

    def __init__(self, spec: EngineSpec, renderer: Renderer) -> None:
        self.renderer = renderer
        self.salts: list[str] = []
        population = {"factors_path": str(spec.factors_path), "max_members": spec.max_members}
        has_population = spec.factors_path is not None
        self.llm = LLM(
            model=str(spec.model_path),
            skip_tokenizer_init=True,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=spec.max_model_len,
            max_num_seqs=MAX_SEQUENCES,
            max_num_batched_tokens=max(MAX_BATCHED_TOKENS, spec.max_model_len),
            # A prompt prefilled in parts crashes CPU engines on a request with a seed of its own
            # (set_offset on a CPU generator), so prompts are never split.
            enable_chunked_prefill=False,
            kv_cache_memory_bytes=int(spec.kv_cache_gb * BYTES_PER_GB),
            worker_cls="workers.engines.vllm_worker.PopulationWorker" if has_population else "auto",
            additional_config={CONFIG_KEY: population} if has_population else {},
            disable_log_stats=True,
            seed=0,
        )
        self.has_population = has_population

    @property
    def num_hooked_layers(self) -> int:
        """Modules that carry a perturbation."""
        if not self.has_population:
            return 0
        return cast(list[int], self.llm.collective_rpc("num_hooked_layers"))[0]

    def set_members(self, vectors_MD: np.ndarray) -> None:
        """Make these the members: row m becomes slot m. float32."""
        self.llm.collective_rpc("set_members", args=(vectors_MD,))
        # The vector's own digest salts the prefix cache:
        # a key-value block can never serve another member.
        self.salts = [hashlib.sha256(row.tobytes()).hexdigest() for row in vectors_MD]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Complete all requests, in order, in one batch."""
        prompts = [
            TokensPrompt(
                prompt_token_ids=list(request.token_ids),
                cache_salt="base" if request.slot == BASE_MEMBER else self.salts[request.slot],
            )
            for request in requests
        ]
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                seed=request.seed if sampling.temperature > 0 else None,
                stop_token_ids=list(self.renderer.stop_token_ids),
                detokenize=False,
                extra_args={MEMBER_ARGUMENT: request.slot},
            )
            for request in requests
        ]
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        completions = [tuple(output.outputs[0].token_ids) for output in outputs]
        return [Completion(ids, self.renderer.decode(ids)) for ids in completions]

    def canary(self, requests: Sequence[Request]) -> list[str]:
        """Names of hooked modules whose output the installed members do not change."""
        self.llm.collective_rpc("watch", args=(True,))
        self.generate(requests, Sampling(max_new_tokens=CANARY_TOKENS))
        seen = cast(list[dict[str, float]], self.llm.collective_rpc("watch", args=(False,)))
        return [name for name, difference in seen[0].items() if difference == 0.0]
