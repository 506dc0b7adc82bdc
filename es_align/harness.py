"""Model `es_align` of lm-evaluation-harness (0.4.13): its tasks on a run, a model or an adapter.

    es-align lm-eval run --model es_align --model_args target=runs/mine --tasks gsm8k

The harness has no entry point for models, so `es-align lm-eval` imports this module, which
registers the model, and then is the harness's own command; a script may import it and call
`lm_eval.simple_evaluate`. Nothing else imports lm_eval.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)

from es_align.errors import ConfigError
from es_align.texts import TextEngine
from workers.references import end_token

DEFAULT_NEW_TOKENS = 256  # the harness's own, where a task names no length
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
READ_NAMES = {*LENGTH_NAMES, "until", "do_sample", "temperature"}
# Model arguments, and what they are called in a configuration.
SHORT_NAMES = {"engine": "workers.engine", "max_model_len": "workers.max_model_len"}


class Generation(NamedTuple):
    """What a request asks for; requests that ask for the same go into one batch."""

    max_new_tokens: int
    stops: tuple[str, ...]
    temperature: float


@register_model("es_align")
class EsAlignModel(TemplateLM):
    """An es-align engine as the harness sees it."""

    def __init__(
        self,
        target: str = "",
        generation: int | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
        **settings: object,
    ) -> None:
        """`target`: run folder, model or adapter folder; `settings`: `precision`, `engine`,
        `max_model_len` or any dotted setting. Batch size and device are the engine's business.

        Raises EsAlignError.
        """
        super().__init__()
        del batch_size, max_batch_size, device
        if not target:
            raise ConfigError(
                "model es_align needs a target; write --model_args target=RUN_OR_MODEL_OR_ADAPTER"
            )
        overrides = [f"{SHORT_NAMES.get(name, name)}={value}" for name, value in settings.items()]
        self._engine = TextEngine(str(target), overrides=overrides, generation=generation)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Complete every request, in order."""
        del disable_tqdm
        batches: defaultdict[Generation, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            batches[read_generation(request.args[1])].append(place)
        answers = [""] * len(requests)
        for asked, places in batches.items():
            completed = self._engine.complete(
                [requests[place].args[0] for place in places],
                max_new_tokens=asked.max_new_tokens,
                stops=asked.stops,
                temperature=asked.temperature,
            )
            for place, answer in zip(places, completed, strict=True):
                answers[place] = answer
                self.cache_hook.add_partial("generate_until", requests[place].args, answer)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        """Of contexts and continuations, which `TemplateLM.loglikelihood` has cut into tokens."""
        found = self._engine.likelihoods([(context, answer) for _, context, answer in requests])
        for request, likelihood in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], likelihood)
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Of whole texts, in windows that do not overlap, each after one token of context."""
        del disable_tqdm
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._engine.longest_scored - 1,
                context_len=1,
            )
            parts = self._engine.likelihoods([make_disjoint_window(window) for window in windows])
            totals.append(sum(total for total, _ in parts))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    @property
    def eot_token_id(self) -> int:
        """What ends a text, and stands before one that has no context."""
        return end_token(self._engine.renderer)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Token ids; None: the model's first token, unless the text begins with it."""
        if add_special_tokens is None:
            return list(self._engine.tokens(string))
        tokenizer = self._engine.renderer.tokenizer
        return tokenizer.encode(string, add_special_tokens=add_special_tokens)

    @property
    def tokenizer_name(self) -> str:
        """What the harness's caches of requests are told apart by."""
        return self._engine.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's own, for the harness's records; None if it is not used."""
        template = self._engine.renderer.tokenizer.chat_template
        return template if chat_template and isinstance(template, str) else None

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, up to where the model goes on."""
        text = self._engine.renderer.tokenizer.apply_chat_template(
            [dict(message) for message in chat_history],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        assert isinstance(text, str)
        return text


def read_generation(asked: Mapping[str, object]) -> Generation:
    """A request's arguments; ConfigError for a way of sampling that the engines have not."""
    lengths = [asked[name] for name in LENGTH_NAMES if asked.get(name) is not None]
    until = asked.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(str(stop) for stop in _items(until))
    temperature = float(str(asked.get("temperature") or 0.0))
    if asked.get("do_sample") is False:
        temperature = 0.0
    unread = sorted(name for name in asked if name not in READ_NAMES)
    if unread and temperature > 0:
        raise ConfigError(
            f"generation_kwargs {', '.join(unread)}: the engines sample by temperature alone; "
            "leave them out, or decode greedily (do_sample: false)"
        )
    return Generation(int(str(lengths[0])) if lengths else DEFAULT_NEW_TOKENS, stops, temperature)


def _items(value: object) -> Sequence[object]:
    assert isinstance(value, Sequence)
    return value
