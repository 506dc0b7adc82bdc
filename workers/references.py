"""Answers that are given: the reference of each prompt, as tokens, for reward `log_likelihood`.

The members are asked how likely they hold the reference after the chat-templated prompt, its end
token included unless it is only how an answer begins, which is the loss of supervised fine-tuning
with its sign turned. The reward is the mean over the answer's tokens, in natural logarithms, so
that long answers do not count for more.
"""

from collections.abc import Mapping, Sequence

from kernels.errors import DataError, WorkerError
from rewards.base import Score, unscored
from rewards.columns import text_column
from rewards.registry import LOG_LIKELIHOOD, LogLikelihoodOptions
from rewards.specs import RewardSpec
from workers.protocol import Prompt
from workers.rendering import Renderer

ROOM = 1  # vLLM draws a token behind what it scores


def likelihood_reward(specs: Sequence[RewardSpec]) -> RewardSpec | None:
    """The run's reward if the engine scores it; it is then the only one."""
    return next((spec for spec in specs if spec.is_shipped and spec.name == LOG_LIKELIHOOD), None)


def reference_tokens(
    renderer: Renderer, prompts: Sequence[Prompt], spec: RewardSpec
) -> dict[str, tuple[int, ...]]:
    """Tokens of each prompt's reference by prompt id, the end token last if the reference is a
    whole answer.

    Raises DataError naming a prompt without a reference.
    """
    options = LogLikelihoodOptions(**spec.options)  # pyright: ignore[reportArgumentType]
    column, end = options.column, (end_token(renderer),) if options.end else ()
    tokens = {}
    for prompt in prompts:
        try:
            text = reference_text(prompt, column)
        except DataError as error:
            raise DataError(f"prompt {prompt.prompt_id}: {error}") from None
        ids = renderer.tokenizer.encode(text, add_special_tokens=False)
        tokens[prompt.prompt_id] = (*ids, *end)
    return tokens


def reference_text(prompt: Prompt, column: str) -> str:
    """The reference itself; DataError if there is none, or it says nothing."""
    text = text_column(prompt.columns, column)
    if not text.strip():
        raise DataError(f"column {column}={text!r} must say something; correct the row")
    return text


def end_token(renderer: Renderer) -> int:
    """What ends an answer: the tokeniser's end token where generation stops at it too, else the
    first at which it stops.
    """
    stops, own = renderer.stop_token_ids, renderer.tokenizer.eos_token_id
    return int(own) if own in stops else stops[0]


def check_references(
    prompts: Mapping[str, Sequence[int]], references: Mapping[str, Sequence[int]], max_len: int
) -> None:
    """WorkerError naming the longest prompt with its reference if that is too long."""
    lengths = {name: len(prompts[name]) + len(ids) + ROOM for name, ids in references.items()}
    longest = max(lengths, key=lambda name: lengths[name])
    if lengths[longest] > max_len:
        raise WorkerError(
            f"prompt {longest} and its reference need {lengths[longest]} tokens; "
            f"workers.max_model_len is {max_len}: set it to {lengths[longest]} or more"
        )


def likelihood_score(total: float, num_tokens: int, spec: RewardSpec) -> Score:
    """The score of a reference whose tokens have this log probability together; natural log."""
    mean = total / num_tokens
    if not abs(mean) < float("inf"):
        return unscored("error:not_finite")
    is_passed = spec.pass_at is not None and mean >= spec.pass_at
    return Score(spec.weight * mean, is_passed, {}, "ok")
