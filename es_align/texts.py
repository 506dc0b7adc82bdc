"""An engine with a run, a model or an adapter in it, in this process, for text from elsewhere.

What drives it brings prompts of its own, as lm-evaluation-harness does (`es_align.harness`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from es_align.config import Config
from es_align.config_loading import apply_overrides
from es_align.errors import ConfigError
from es_align.pooling import worker_spec
from es_align.preflight import validate
from es_align.run_folder import RunFolder
from es_align.space_checks import check_run_settings
from es_align.targets import open_target, target_config
from workers.evaluator import Evaluator, request_seed
from workers.protocol import Prompt, Sampling
from workers.references import ROOM
from workers.rendering import Renderer

MODEL_LENGTH = 2048
TORCH_BATCH = 16  # the reference engine computes a whole batch at once
# An evaluator has prompts; this one is never asked.
GREETING = Prompt("text/0", ({"role": "user", "content": "Hello"},), {})


class TextEngine:
    """Completes texts as they are; the context length is `workers.max_model_len`."""

    def __init__(
        self, target: str, *, overrides: Sequence[str] = (), generation: int | None = None
    ) -> None:
        """`overrides` as for `es_align.evaluate`. Raises EsAlignError."""
        own = target_config(target)
        settings = apply_overrides(_for_texts(own), overrides)
        is_run = RunFolder(Path(target)).has_run
        if is_run:
            check_run_settings(own, settings)
        validate(settings, is_begun=is_run, is_trained=False)
        opened = open_target(target, settings, generation)
        spec = worker_spec(settings, opened.model, "letters", opened.means)
        self._evaluator = Evaluator(spec, opened.layers, [GREETING])
        self._evaluator.catch_up(opened.moves)
        self._member = opened.mean
        self._batch = TORCH_BATCH if settings.workers.engine == "torch" else None
        self.name = f"{target}, {settings.precision}"
        self.max_model_len = settings.workers.max_model_len

    @property
    def renderer(self) -> Renderer:
        """The model's chat template and tokeniser."""
        return self._evaluator.renderer

    def likelihoods(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[tuple[float, bool]]:
        """Of each prompt and answer in token ids: natural log probability of the answer, summed,
        and whether greedy decoding would write it.

        Of what is too long the prompt's beginning is cut off. Raises ConfigError if the context has
        no room for an answer behind one token.
        """
        room = self.longest_scored
        longest = max((len(answer) for _, answer in pairs), default=0)
        if longest >= room:
            raise ConfigError(
                f"an answer of {longest} tokens does not fit max_model_len={self.max_model_len}; "
                f"set max_model_len={longest + ROOM + 1} or more"
            )
        given = [(tuple(prompt)[len(answer) - room :], tuple(answer)) for prompt, answer in pairs]
        found = self._evaluator.likelihoods(given, self._member)
        return [(likelihood.total, likelihood.is_greedy) for likelihood in found]

    @property
    def longest_scored(self) -> int:
        """Tokens of a prompt and an answer together that `likelihoods` takes."""
        return self.max_model_len - ROOM

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids, after the model's first token if the text does not begin with it."""
        tokenizer = self.renderer.tokenizer
        first = tokenizer.bos_token
        has_first = isinstance(first, str) and text.startswith(first)
        return tuple(tokenizer.encode(text, add_special_tokens=not has_first))

    def complete(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """What follows each text, up to the first stop; the same text twice is drawn anew.

        Of a text that is too long the beginning is cut off. Raises ConfigError if the context has
        no room for `max_new_tokens`.
        """
        room = self.max_model_len - max_new_tokens
        if room < 1:
            raise ConfigError(
                f"{max_new_tokens} new tokens leave no room for a prompt in max_model_len="
                f"{self.max_model_len}; ask for fewer, or set max_model_len={max_new_tokens * 2}"
            )
        ids = [self.tokens(text)[-room:] for text in texts]
        seen: Counter[str] = Counter()
        seeds = []
        for text in texts:
            seeds.append(request_seed(seed, text, seen[text]))
            seen[text] += 1
        sampling = Sampling(max_new_tokens, temperature, seed=seed)
        size = self._batch or max(len(texts), 1)
        answers = [
            completion.text
            for start in range(0, len(texts), size)
            for completion in self._evaluator.complete(
                ids[start : start + size], seeds[start : start + size], self._member, sampling
            )
        ]
        return [before_stops(answer, stops) for answer in answers]


def before_stops(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first stop begins; an empty stop is none."""
    places = [text.find(stop) for stop in stops if stop]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def _for_texts(own: Config) -> Config:
    """Without a reward and a test of its own, and with room for long prompts."""
    tree = own.model_dump(mode="json")
    tree |= {"reward": [], "max_new_tokens": 1}
    tree["evaluation"] |= {"task": None, "max_new_tokens": None}
    tree["workers"] |= {"max_model_len": max(own.workers.max_model_len, MODEL_LENGTH)}
    return Config.model_validate(tree)
