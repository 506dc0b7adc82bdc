"""The fast engine: vLLM, in process,
with every member of the population in one continuous batch.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

# Read by vLLM at import: one process (a worker is one already), the runner whose rows we map,
# no reporting home.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import torch
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from kernels.errors import WorkerError
from workers.checkpoints import Checkpoint
from workers.engines.base import Completion, EngineSpec, Forced, Likelihood, OnDone, Request
from workers.engines.population_op import PopulationSettings, first_site, forget_sites
from workers.engines.vllm_compat import (
    check_device,
    check_version,
    end_engine,
    forget_prefixes,
    is_in_process,
    is_on_cpu,
    stream,
)
from workers.engines.vllm_worker import ANSWER_ARGUMENT, MEMBER_ARGUMENT, Columns
from workers.layers import layer_names
from workers.members import Members, identities
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

CANARY_TOKENS = 1
REPLAYED_TOKENS = 8  # of a member and of the mean, by captured graphs
REPLAYED_PROMPTS = (1, 16)  # tokens: a decoding step, and a prompt whose graphs are in pieces
COLUMNS_READ_BACK = 2
LAYERS_IN_TURN = 4  # of so many, one is read back after a write
BYTES_PER_GB = 2**30
# On CPUs; on a GPU vLLM's own limits go by its memory.
MAX_SEQUENCES = 256
MAX_BATCHED_TOKENS = 2048
# Of a GPU's memory, that vLLM has to find free. Nothing else reads it where the cache's size is
# given, and the default, 92 %, leaves no room for a reward model or another worker.
FREE_SHARE = 0.001
GRAPH_ROWS = 1024  # most sequences that vLLM has on a GPU; by itself it captures graphs for 512


def engine_arguments(spec: EngineSpec, first_site: int = 0) -> dict[str, object]:
    """What `vllm.LLM` is given; sizes are shared with the unmodified engine of the benchmark.

    What a step holds is left to vLLM on GPUs: up to 1024 sequences and 16384 tokens, prompts split
    between steps.
    """
    arguments: dict[str, object] = {
        "model": str(spec.model_path),
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "enforce_eager": not spec.is_compiled,
        "max_model_len": spec.max_model_len,
        "kv_cache_memory_bytes": int(spec.kv_cache_gb * BYTES_PER_GB),
        "disable_log_stats": True,
        "seed": 0,
    }
    if is_on_cpu():
        arguments["max_num_seqs"] = MAX_SEQUENCES
        arguments["max_num_batched_tokens"] = max(MAX_BATCHED_TOKENS, spec.max_model_len)
    else:
        arguments["gpu_memory_utilization"] = FREE_SHARE
        if spec.is_compiled:
            arguments["compilation_config"] = {"max_cudagraph_capture_size": GRAPH_ROWS}
    if spec.factors_path is not None:
        arguments["worker_cls"] = "workers.engines.vllm_worker.PopulationWorker"
        # In the compile cache's key: a graph compiled without these hooks must not be reused.
        arguments["additional_config"] = PopulationSettings(
            spec.factors_path, spec.max_members, first_site, layer_names(spec.factors_path)
        )
    return arguments


class VllmEngine:
    """Population engine over vLLM (see `workers.engines.base.Engine`)."""

    def __init__(
        self, spec: EngineSpec, renderer: Renderer, overrides: Mapping[str, object] | None = None
    ) -> None:
        """`overrides` replaces arguments of `vllm.LLM`.

        Raises ModelError if the installed vLLM is not one the hooks were written for or computes on
        another device than `spec.device`, or a layer cannot be hooked.
        """
        check_version()
        check_device(spec.device)
        self.renderer = renderer
        self.salts: list[str] = []
        self.checkpoint = Checkpoint(spec.model_path)
        self.num_writes = 0
        self.has_population = spec.factors_path is not None
        self.first_site = first_site()
        arguments = engine_arguments(spec, self.first_site)
        if is_on_cpu():
            # A prompt prefilled in parts crashes CPU engines on a request with a seed of its own
            # (set_offset on a CPU generator), so prompts are never split.
            arguments["enable_chunked_prefill"] = False
        self.llm = LLM(**{**arguments, **(overrides or {})})  # pyright: ignore[reportArgumentType]

    @property
    def num_hooked_layers(self) -> int:
        """Modules that carry a perturbation."""
        if not self.has_population:
            return 0
        return cast(list[int], self.llm.collective_rpc("num_hooked_layers"))[0]

    def set_members(self, members: Members) -> None:
        """Make these the members: number m becomes slot m."""
        self.llm.collective_rpc("set_members", args=(members,))
        # The member's own digest salts the prefix cache:
        # a key-value block can never serve another member.
        self.salts = identities(members)

    def write_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the weights of these layers, quantised as the checkpoint's are, and forget the
        prefixes computed with the old ones.

        Then a few inputs' columns are read back through the layer's own kernel, other ones at each
        call: of every layer the first time, later of a quarter of them in turn. Raises WorkerError
        naming a layer that holds something else, ModelError if the checkpoint's layers have other
        names or cannot be written.
        """
        meant: dict[str, Columns] = {}
        tensors = self._stored(weights, meant)
        self.llm.collective_rpc(
            "write_weights", args=(tensors if is_in_process(self.llm) else list(tensors),)
        )
        forget_prefixes(self.llm)
        self.num_writes += 1
        for wrong in cast(list[list[str]], self.llm.collective_rpc("differing", args=(meant,))):
            if wrong:
                raise WorkerError(
                    f"{len(wrong)} layers do not hold the weights that were written, first "
                    f"{wrong[0]}, by their columns {', '.join(map(str, meant[wrong[0]].indices))} "
                    "or their bias; this vLLM packs them in a way that is not known, use the "
                    "version in constraints.txt; with that version, please report it"
                )

    def _stored(
        self, weights: Iterable[tuple[str, torch.Tensor]], meant: dict[str, Columns]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Checkpoint tensors of the weights; notes the columns to be read back in `meant`."""
        first = self.num_writes * COLUMNS_READ_BACK
        for place, (name, weight_OI) in enumerate(weights):
            stored = self.checkpoint.form(name).encode(weight_OI)
            if self.num_writes == 0 or (place + self.num_writes) % LAYERS_IN_TURN == 0:
                indices = [(first + i) % weight_OI.shape[1] for i in range(COLUMNS_READ_BACK)]
                meant[name] = Columns(indices, stored.columns(indices))
            yield from stored.tensors(name)

    @property
    def member_bytes(self) -> int:
        """Bytes of member state on one rank, for `max_members` members."""
        return cast(list[int], self.llm.collective_rpc("population_bytes"))[0]

    def close(self) -> None:
        """Give the model's memory back; another engine may then start in this process."""
        end_engine(self.llm)
        del self.llm
        forget_sites(self.first_site)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Completion]:
        """Complete all requests, in order, in one batch; `on_done` hears of each as it ends."""
        prompts = [self._prompt(request.token_ids, request.slot) for request in requests]
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                seed=request.seed if sampling.temperature > 0 else None,
                stop_token_ids=[] if sampling.ignore_eos else list(self.renderer.stop_token_ids),
                detokenize=False,
                # Zero others beside the chosen token's own, from the logits before the temperature.
                logprobs=0 if sampling.with_log_likelihood else None,
                ignore_eos=sampling.ignore_eos,
                extra_args={MEMBER_ARGUMENT: request.slot},
            )
            for request in requests
        ]
        done: dict[int, Completion] = {}
        for place, output in stream(self.llm, prompts, parameters):
            answer = output.outputs[0]
            done[place] = Completion(
                tuple(answer.token_ids),
                self.renderer.decode(answer.token_ids),
                answer.cumulative_logprob,
            )
            if on_done is not None:
                on_done(place, done[place])
        return [done[place] for place in range(len(requests))]

    def score(self, sequences: Sequence[Forced]) -> list[Likelihood]:
        """How likely each answer is after its prompt, which must not be empty.

        vLLM reads no cached prefix for such a request; without a population it scores the prompt's
        own tokens, too. It draws one token, which nobody asked for, so a sequence must be shorter
        than `max_model_len`.
        """
        prompts = [self._prompt(s.prompt_ids + s.answer_ids, s.slot) for s in sequences]
        parameters = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                prompt_logprobs=0,  # zero others beside the token's own
                detokenize=False,
                extra_args={
                    MEMBER_ARGUMENT: sequence.slot,
                    ANSWER_ARGUMENT: len(sequence.answer_ids),
                },
            )
            for sequence in sequences
        ]
        likelihoods: dict[int, Likelihood] = {}
        for place, output in stream(self.llm, prompts, parameters):
            answer_ids, rows = sequences[place].answer_ids, output.prompt_logprobs
            assert rows is not None
            pairs = zip(answer_ids, rows[-len(answer_ids) :], strict=True)
            given = [row[token] for token, row in pairs if row is not None]
            assert len(given) == len(answer_ids), "the first token of all has no likelihood"
            likelihoods[place] = Likelihood(
                math.fsum(token.logprob for token in given), all(token.rank == 1 for token in given)
            )
        return [likelihoods[place] for place in range(len(sequences))]

    def _prompt(self, token_ids: Sequence[int], slot: int) -> TokensPrompt:
        salt = "base" if slot == BASE_MEMBER else self.salts[slot]
        return TokensPrompt(prompt_token_ids=list(token_ids), cache_salt=salt)

    def canary(self, requests: Sequence[Request], reference: int = BASE_MEMBER) -> list[str]:
        """Names of hooked modules whose output is the same, for all requests, as with the member in
        slot `reference` in their place; of all, if captured graphs then answer alike.
        """
        self.llm.collective_rpc("watch", args=(reference,))
        self.generate(requests, Sampling(max_new_tokens=CANARY_TOKENS))
        seen = cast(list[dict[str, float]], self.llm.collective_rpc("watch", args=(None,)))[0]
        if self._replays_alike(requests, reference):
            return list(seen)
        return [name for name, difference in seen.items() if difference == 0.0]

    def _replays_alike(self, requests: Sequence[Request], reference: int) -> bool:
        """Whether captured graphs answer all requests as with the member in slot `reference`, at
        one of REPLAYED_PROMPTS.

        Asked are each one's last tokens: a single one is a decoding step by itself, and neither has
        a cached prefix, so that every number is a graph's. The answers' log probabilities tell.
        """
        if not cast(list[bool], self.llm.collective_rpc("replays_graphs"))[0]:
            return False
        asked = Sampling(REPLAYED_TOKENS, ignore_eos=True, with_log_likelihood=True)
        for num_tokens in REPLAYED_PROMPTS:
            short = [r._replace(token_ids=r.token_ids[-num_tokens:]) for r in requests]
            others = [request._replace(slot=reference) for request in short]
            if self.generate(short, asked) == self.generate(others, asked):
                return True
        return False
