"""The arms of `es-align bench population`: unmodified vLLM, the population, stock multi-LoRA.

All have the same sizes of batch and cache (`engine_arguments`); whatever else vLLM decides by
itself is left to it in the arms that are not ours. vLLM is imported where an arm starts, so that
`ArmSpec` can be read without it.

Shape suffixes: _M members, _D numbers of a vector, _Q requests.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from kernels.noise import vector_noise
from workers.engines.base import EngineSpec, Request
from workers.layers import LayerFactors, PerturbedLayer, load_factors
from workers.members import Members, NoiseMembers
from workers.protocol import Sampling

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.inputs import TokensPrompt

RUNNER_SWITCH = "VLLM_USE_V2_MODEL_RUNNER"


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """Everything an arm needs to start; plain JSON."""

    arm: Literal["base", "population", "stock"]
    model_path: str
    precision: str
    max_members: int
    max_model_len: int
    kv_cache_gb: float
    num_threads: int
    is_compiled: bool
    seed: int
    sigma: float
    factors_path: str | None = None  # population: its perturbed layers
    adapters_path: str | None = None  # stock: one PEFT folder a member, named by its number
    max_lora_rank: int | None = None  # stock
    max_loras: int | None = None  # stock: adapters in one batch
    targets: tuple[str, ...] = ()  # stock: last part of the names of the adapted layers

    def engine(self) -> EngineSpec:
        """The same for an engine; without factors it is vLLM as it comes."""
        return EngineSpec(
            kind="vllm",
            model_path=Path(self.model_path),
            precision=self.precision,
            factors_path=None if self.factors_path is None else Path(self.factors_path),
            max_members=self.max_members,
            max_model_len=self.max_model_len,
            kv_cache_gb=self.kv_cache_gb,
            num_threads=self.num_threads,
            is_compiled=self.is_compiled,
        )


class EngineArm(Protocol):
    """One way to answer requests of many members."""

    @property
    def llm(self) -> "LLM":
        """The engine beneath."""
        ...

    def set_members(self, num_members: int, generation: int) -> None:
        """Make the members 0 to `num_members` - 1 of a generation ready; timed by itself."""
        ...

    def generate(
        self, prompts_Q: Sequence[Sequence[int]], members_Q: Sequence[int], new_tokens: int
    ) -> list[Sequence[int]]:
        """Token ids of all answers, greedy, exactly `new_tokens` each; this call is timed."""
        ...

    def bytes_per_member(self) -> float | None:
        """Memory that one more member takes beside the model; None if there are no members."""
        ...


class BaseArm:
    """Unmodified vLLM: every request is the base model's."""

    def __init__(self, spec: ArmSpec) -> None:
        self.llm = _start_vllm(spec)

    def set_members(self, num_members: int, generation: int) -> None:
        """Nothing: there is one model."""

    def generate(
        self, prompts_Q: Sequence[Sequence[int]], members_Q: Sequence[int], new_tokens: int
    ) -> list[Sequence[int]]:
        """See `EngineArm`."""
        outputs = self.llm.generate(_prompts(prompts_Q), _greedy(new_tokens), use_tqdm=False)
        return _token_ids(outputs)

    def bytes_per_member(self) -> float | None:
        """None: there are no members."""
        return None


class StockArm:
    """vLLM's own multi-LoRA: one adapter a member, all read into memory before they are used.

    Every generation has new members, so its adapters are read anew. That they are the same files is
    no help to vLLM, which knows an adapter by its number, and writing them is not counted. With
    fewer slots than members the scheduler takes the members in turns, each adapter copied into its
    slot once a round.
    """

    def __init__(self, spec: ArmSpec) -> None:
        assert spec.adapters_path is not None and spec.max_lora_rank is not None
        self.llm = _start_vllm(
            spec,
            enable_lora=True,
            max_loras=spec.max_loras,
            max_cpu_loras=spec.max_members,
            max_lora_rank=spec.max_lora_rank,
            lora_target_modules=list(spec.targets),  # by default embeddings and head are wrapped
        )
        from vllm.lora.request import LoRARequest

        self.request = LoRARequest
        self.folders = [Path(spec.adapters_path) / str(m) for m in range(spec.max_members)]
        self.adapters: list[LoRARequest] = []
        self.adapter_bytes = (self.folders[0] / "adapter_model.safetensors").stat().st_size

    def set_members(self, num_members: int, generation: int) -> None:
        """Read the adapters from disk, in place of the last generation's."""
        for adapter in self.adapters:
            self.llm.llm_engine.remove_lora(adapter.lora_int_id)
        first = 1 + generation * len(self.folders)
        self.adapters = [
            self.request(f"{generation}-{member}", first + member, str(self.folders[member]))
            for member in range(num_members)
        ]
        for adapter in self.adapters:
            self.llm.llm_engine.add_lora(adapter)

    def generate(
        self, prompts_Q: Sequence[Sequence[int]], members_Q: Sequence[int], new_tokens: int
    ) -> list[Sequence[int]]:
        """See `EngineArm`."""
        outputs = self.llm.generate(
            _prompts(prompts_Q),
            _greedy(new_tokens),
            use_tqdm=False,
            lora_request=[self.adapters[member] for member in members_Q],
        )
        return _token_ids(outputs)

    def bytes_per_member(self) -> float | None:
        """Size of an adapter's file."""
        return float(self.adapter_bytes)


class PopulationArm:
    """The population engine; its answers are also made text, as in a run."""

    def __init__(self, spec: ArmSpec) -> None:
        from workers.engines.vllm_engine import VllmEngine
        from workers.rendering import Renderer

        engine = spec.engine()
        assert engine.factors_path is not None
        self.spec = spec
        self.layers = load_factors(engine.factors_path)
        self.engine = VllmEngine(engine, Renderer(engine.model_path))
        self.llm = self.engine.llm

    def set_members(self, num_members: int, generation: int) -> None:
        """Antithetic pairs of the noise a run would draw."""
        spec = self.spec
        members = make_members(self.layers, num_members, spec.seed, spec.sigma, generation)
        self.engine.set_members(members)

    def generate(
        self, prompts_Q: Sequence[Sequence[int]], members_Q: Sequence[int], new_tokens: int
    ) -> list[Sequence[int]]:
        """See `EngineArm`."""
        requests = [
            Request(tuple(token_ids), member, 0)
            for token_ids, member in zip(prompts_Q, members_Q, strict=True)
        ]
        completions = self.engine.generate(requests, Sampling(new_tokens, ignore_eos=True))
        return [completion.token_ids for completion in completions]

    def bytes_per_member(self) -> float | None:
        """Resident bytes of the members' state over the members there is room for."""
        return self.engine.member_bytes / self.spec.max_members


ARMS = {"base": BaseArm, "population": PopulationArm, "stock": StockArm}


def make_members(
    layers: Sequence[PerturbedLayer], num_members: int, seed: int, sigma: float, generation: int
) -> Members:
    """Members 2p and 2p + 1 are the two signs of pair p: vectors for singular values, else seeds.

    A space with a mean of its own keeps the one it starts with.
    """
    pairs = [member // 2 for member in range(num_members)]
    signs = [1 if member % 2 == 0 else -1 for member in range(num_members)]
    if isinstance(layers[0], LayerFactors):
        dimension = sum(layer.num_numbers for layer in layers)
        rows = [
            sign * sigma * vector_noise(seed, generation, pair, dimension)
            for pair, sign in zip(pairs, signs, strict=True)
        ]
        return np.stack(rows).astype(np.float32)
    return NoiseMembers(seed, generation, tuple(pairs), tuple(signs), sigma)


def _start_vllm(spec: ArmSpec, **options: object) -> "LLM":
    chosen = os.environ.get(RUNNER_SWITCH)
    from workers.engines.vllm_engine import engine_arguments

    if chosen is None:  # our engine's import asks for the runner it can hook; vLLM has its own view
        os.environ.pop(RUNNER_SWITCH, None)
    from vllm import LLM

    arguments = engine_arguments(spec.engine()) | options
    return LLM(**arguments)  # pyright: ignore[reportArgumentType]


def _prompts(prompts_Q: Sequence[Sequence[int]]) -> list["TokensPrompt"]:
    from vllm.inputs import TokensPrompt

    return [TokensPrompt(prompt_token_ids=list(token_ids)) for token_ids in prompts_Q]


def _greedy(new_tokens: int) -> "SamplingParams":
    from vllm import SamplingParams

    return SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True, detokenize=False)


def _token_ids(outputs: Sequence["RequestOutput"]) -> list[Sequence[int]]:
    return [output.outputs[0].token_ids for output in outputs]
