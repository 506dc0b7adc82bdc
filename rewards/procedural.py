"""Rows of reasoning_gym, scored by each data set's own scorer (arXiv 2505.24760).

The answer is what follows the last `####` on its line, as the prompt asks; failing that, for half
the reward, the last line or the last word. The scorer, not this file, decides what is right: some
data sets accept several answers or give part of the points. Only a marked answer with all points
passes.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias, cast

from kernels.errors import ConfigError
from rewards.base import Columns, JsonValue, Score
from rewards.columns import mapping_column, text_column

UNMARKED_SHARE = 0.5
FORMAT_REWARD = 0.1
# Their scorers evaluate the answer as Python, by eval or SymPy's parser, which is no better.
EVALUATING = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)
_MARKER = "####"
_EDGES = " \t*_`$.,;:!?\"'()"

Entry: TypeAlias = dict[str, JsonValue]
Scorer: TypeAlias = Callable[[str, Entry], float]


def reasoning_gym_reward(completion: str, columns: Columns) -> Score:
    """Score one completion; columns `dataset` (its name) and `entry` (the row as generated).

    Reasons: ok, unmarked (right, but not after `####`), partial, wrong, no_answer, empty. Raises
    DataError for a missing column and ConfigError for a data set that is unknown or EVALUATING.
    """
    dataset = text_column(columns, "dataset")
    if dataset in EVALUATING:
        raise ConfigError(
            f"reasoning_gym's scorer of {dataset} would run what a model wrote as Python code; set "
            "task.dataset to another, or reward to one that does not (there is reward=countdown)"
        )
    scorer = get_scorer(dataset)
    entry = mapping_column(columns, "entry")
    marked = marked_answer(completion)
    unmarked = {last_line(completion), last_word(completion)} - {""}
    strict = scorer(marked, entry) if marked else 0.0
    flexible = max([strict, *(scorer(answer, entry) for answer in sorted(unmarked))])
    reward = max(strict, UNMARKED_SHARE * flexible, FORMAT_REWARD if marked else 0.0)
    return Score(
        reward=reward,
        passed=strict >= 1.0,
        metrics={"strict": float(strict >= 1.0), "flexible": float(flexible >= 1.0)},
        reason=_reason(completion, bool(unmarked), strict, flexible),
    )


def marked_answer(completion: str) -> str:
    """What follows the last `####` on its line; empty if there is none."""
    _, marker, rest = completion.rpartition(_MARKER)
    return rest.split("\n", 1)[0].strip(_EDGES) if marker else ""


def last_line(completion: str) -> str:
    """The last line that is not blank, without marker or punctuation around it."""
    lines = completion.strip().split("\n")
    return lines[-1].strip().removeprefix(_MARKER).strip(_EDGES)


def last_word(completion: str) -> str:
    """The last word, without punctuation around it; empty if there is none."""
    words = completion.split()
    return words[-1].removeprefix(_MARKER).strip(_EDGES) if words else ""


@lru_cache(256)
def get_scorer(dataset: str) -> Scorer:
    """The scorer of a data set; ConfigError if reasoning_gym has none of that name."""
    # Imported on first use: it takes seconds and no other task needs it.
    from reasoning_gym.factory import DATASETS, get_score_answer_fn

    if dataset not in DATASETS:
        raise ConfigError(
            f"reasoning_gym has no data set {dataset!r} among its {len(DATASETS)}; "
            f"set task.dataset to one, such as chain_sum or gsm_symbolic"
        )
    # Its annotation says that the scorer takes no arguments.
    return cast(Scorer, get_score_answer_fn(dataset))


def _reason(completion: str, has_answer: bool, strict: float, flexible: float) -> str:
    if not completion.strip():
        return "empty"
    if strict >= 1.0:
        return "ok"
    if flexible >= 1.0:
        return "unmarked"
    if flexible > 0.0:
        return "partial"
    return "wrong" if has_answer else "no_answer"
