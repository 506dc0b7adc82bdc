"""The reward of IFEval prompts: the fraction of a prompt's instructions that are followed.

Columns: `instruction_id_list` and `kwargs`, as in the rows of the data set (Zhou et al. 2023, arXiv
2311.07911). Passed is the strict prompt-level verdict, so held-out accuracies can be compared.

The metrics are the two prompt-level verdicts and counts of instructions; instruction-level
accuracy over prompts is the mean of `followed_strict` (or `_loose`) over that of `instructions`.
"""

from rewards.base import Columns, Score
from rewards.columns import list_column, texts_column
from rewards.ifeval.verdicts import judge


def ifeval_reward(completion: str, columns: Columns, *, loose: bool = False) -> Score:
    """Score one completion by the strict verdicts, or by the loose ones.

    Reasons, of the strict ones: ok (all followed), partly, none, empty. Raises DataError or
    ConfigError for a row that is wrong.
    """
    ids, kwargs = texts_column(columns, "instruction_id_list"), list_column(columns, "kwargs")
    strict, forgiving = judge(completion, ids, kwargs)
    counted = forgiving if loose else strict
    return Score(
        reward=sum(counted) / len(counted),
        passed=all(strict),
        metrics={
            "prompt_strict": float(all(strict)),
            "prompt_loose": float(all(forgiving)),
            "followed_strict": float(sum(strict)),
            "followed_loose": float(sum(forgiving)),
            "instructions": float(len(strict)),
        },
        reason=_reason(completion, strict),
    )


def _reason(completion: str, strict: tuple[bool, ...]) -> str:
    if not completion.strip():
        return "empty"
    if all(strict):
        return "ok"
    return "partly" if any(strict) else "none"
