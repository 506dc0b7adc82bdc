"""The reference engine: transformers and torch, batched, short enough to read in one go.

It defines what the fast engine must compute, runs where vLLM does not, and serves the tests: in
fp32 on one thread its results are the same bits for the same chunk, wherever that chunk runs. No
paged cache, no continuous batching.

Shape suffixes: _B requests, _T tokens, _A tokens of the longest answer, _V vocabulary.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from kernels.errors import WorkerError
from kernels.noise import Purpose, philox
from workers.engines.base import Completion, EngineSpec, Forced, Likelihood, OnDone, Request
from workers.engines.population_op import RowMap, Site, first_site, forget_sites
from workers.layers import load_factors
from workers.members import Members
from workers.population import Population
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

DTYPES = {"fp32": torch.float32}  # everything else computes in bf16
SCORED_TOGETHER = 32  # given answers in one forward, whose logits are all held


class TorchEngine:
    """Population engine over a transformers model (see `workers.engines.base.Engine`)."""

    def __init__(self, spec: EngineSpec, renderer: Renderer) -> None:
        torch.set_num_threads(spec.num_threads)
        self.renderer = renderer
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(found if spec.device is None else spec.device)
        dtype = DTYPES.get(spec.precision, torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(spec.model_path, dtype=dtype)
        assert isinstance(model, PreTrainedModel)
        self.model = model.to(self.device).eval()  # pyright: ignore[reportArgumentType]
        self.population: Population | None = None
        self.rows = RowMap(0, self.device)
        self.sites: dict[str, Site] = {}
        if spec.factors_path is not None:
            layers = load_factors(spec.factors_path)
            self.population = Population(layers, spec.max_members, dtype, self.device)
            self._hook_layers(self.population)

    def _hook_layers(self, population: Population) -> None:
        first = first_site()
        weakref.finalize(self, forget_sites, first)
        numbers = itertools.count(first)
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                hook = population.hook(name, [name])
                if hook is not None:
                    self.sites[name] = Site(name, next(numbers), hook.perturbation, self.rows)
                    module.register_forward_hook(_adder(self.sites[name]))
        population.check_all_hooked()

    @property
    def num_hooked_layers(self) -> int:
        """Modules that carry a perturbation."""
        return len(self.sites)

    def set_members(self, members: Members) -> None:
        """Make these the members: number m becomes slot m."""
        assert self.population is not None
        self.population.set_members(members)

    @torch.inference_mode()
    def write_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the weights of these layers; nothing but rounding stands between."""
        for name, weight_OI in weights:
            held_OI = self.model.get_submodule(name).get_parameter("weight")
            held_OI.copy_(weight_OI)
            if not bool(held_OI.isfinite().all()):
                raise WorkerError(
                    f"layer {name} got numbers that {held_OI.dtype} cannot hold; lower "
                    "strategy.sigma or strategy.learning_rate"
                )

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Completion]:
        """Complete all requests, in order, in one batch; `on_done` hears of each as it ends."""
        tokens_BT, mask_BT = self._left_padded(requests)
        cache = DynamicCache()
        answers: list[list[int]] = [[] for _ in requests]
        likelihoods = [0.0] * len(requests)
        is_open = [True] * len(requests)
        done: dict[int, Completion] = {}

        def close(row: int) -> None:
            likelihood = likelihoods[row] if sampling.with_log_likelihood else None
            ids = answers[row]
            done[row] = Completion(tuple(ids), self.renderer.decode(ids), likelihood)
            if on_done is not None:
                on_done(row, done[row])

        for position in range(sampling.max_new_tokens):
            logits_BV = self._logits(requests, tokens_BT, mask_BT, cache)[:, -1]
            next_B = self._choose(logits_BV, requests, sampling, position)
            if sampling.with_log_likelihood:
                for row, added in enumerate(_log_probabilities(logits_BV, next_B).tolist()):
                    likelihoods[row] += added if is_open[row] else 0.0
            for row, token in enumerate(next_B.tolist()):
                if is_open[row]:
                    is_open[row] = sampling.ignore_eos or token not in self.renderer.stop_token_ids
                    answers[row].append(token)
                    if not is_open[row]:
                        close(row)
            if not any(is_open):
                break
            tokens_BT = next_B[:, None]
            mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)
        for row in range(len(requests)):
            if is_open[row]:
                close(row)
        return [done[row] for row in range(len(requests))]

    @torch.inference_mode()
    def score(self, sequences: Sequence[Forced]) -> list[Likelihood]:
        """How likely each answer is after its prompt, which must not be empty."""
        starts = range(0, len(sequences), SCORED_TOGETHER)
        parts = (sequences[start : start + SCORED_TOGETHER] for start in starts)
        return [likelihood for part in parts for likelihood in self._score(part)]

    def _score(self, sequences: Sequence[Forced]) -> list[Likelihood]:
        requests = [Request(s.prompt_ids + s.answer_ids, s.slot, 0) for s in sequences]
        tokens_BT, mask_BT = self._left_padded(requests)
        lengths_B = torch.tensor([len(s.answer_ids) for s in sequences], device=self.device)
        width = int(lengths_B.max())
        # Answers end together, and each token's logits stand one place before it.
        logits_BAV = self._logits(requests, tokens_BT, mask_BT, DynamicCache(), keep=width + 1)
        answers_BA = tokens_BT[:, -width:]
        given_BA = _log_probabilities(logits_BAV[:, :-1], answers_BA).double()
        is_greedy_BA = logits_BAV[:, :-1].argmax(-1) == answers_BA
        is_answer_BA = torch.arange(width, device=self.device) >= width - lengths_B[:, None]
        totals_B = given_BA.where(is_answer_BA, 0.0).sum(1)
        are_greedy_B = (is_greedy_BA | ~is_answer_BA).all(1)
        return list(map(Likelihood, totals_B.tolist(), are_greedy_B.tolist()))

    @torch.inference_mode()
    def logits(self, requests: Sequence[Request]) -> torch.Tensor:
        """Logits after the last token of each request, `[B, V]` fp32."""
        return self._logits(requests, *self._left_padded(requests), DynamicCache())[:, -1]

    def canary(self, requests: Sequence[Request], reference: int = BASE_MEMBER) -> list[str]:
        """Names of hooked modules whose output is the same, for all requests, as with the member in
        slot `reference` in their place.
        """
        for site in self.sites.values():
            site.watch(reference)
        self.logits(requests)
        return [name for name, site in self.sites.items() if site.watch(None) == 0.0]

    def _left_padded(self, requests: Sequence[Request]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(request.token_ids) for request in requests)
        padding = self.renderer.stop_token_ids[0]
        tokens_BT = torch.full((len(requests), longest), padding, device=self.device)
        mask_BT = torch.zeros_like(tokens_BT)
        for row, request in enumerate(requests):
            tokens_BT[row, longest - len(request.token_ids) :] = torch.tensor(request.token_ids)
            mask_BT[row, longest - len(request.token_ids) :] = 1
        return tokens_BT, mask_BT

    def _logits(
        self,
        requests: Sequence[Request],
        tokens_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        cache: DynamicCache,
        keep: int = 1,
    ) -> torch.Tensor:
        """Logits after the last `keep` tokens, `[B, keep, V]` fp32."""
        slots_B = torch.tensor([request.slot for request in requests], dtype=torch.int32)
        self.rows.set(slots_B.repeat_interleave(tokens_BT.shape[1]))
        positions_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)[:, -tokens_BT.shape[1] :]
        output = self.model(
            input_ids=tokens_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits.float()

    def _choose(
        self,
        logits_BV: torch.Tensor,
        requests: Sequence[Request],
        sampling: Sampling,
        position: int,
    ) -> torch.Tensor:
        """Greedy, or Gumbel-max sampling with the same noise for every member of a prompt."""
        if sampling.temperature > 0:
            width = logits_BV.shape[1]
            noise = {
                seed: philox(seed, Purpose.SAMPLING, position).gumbel(size=width)
                for seed in {request.seed for request in requests}
            }
            noise_BV = torch.from_numpy(np.stack([noise[request.seed] for request in requests]))
            logits_BV = logits_BV / sampling.temperature + noise_BV.to(logits_BV)
        return logits_BV.argmax(dim=-1)


def _log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Natural log probability of each token, fp32 and shaped like `tokens`, from fp32 logits with
    the vocabulary as one more dimension.
    """
    return logits.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


def _adder(site: Site) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    def add_perturbation(
        module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        torch.ops.es_align.add_population_(output, inputs[0], site.number)

    return add_perturbation
