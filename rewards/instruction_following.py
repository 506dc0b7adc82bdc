"""The reward of IFEval prompts: the fraction of a prompt's instructions that are followed.

Columns: `instruction_id_list` and `kwargs`, as in the rows of the data set (Zhou et al. 2023, arXiv
2311.07911). Two rewards, which differ in what a fraction is taken of: `ifeval` of the strict
verdicts, `ifeval_loose` of the loose ones. Passed is the strict prompt-level verdict for both, so
held-out accuracies can be compared.

The metrics are the two prompt-level verdicts and counts of instructions; instruction-level
accuracy over prompts is the mean of `followed_strict` (or `_loose`) over that of `instructions`.
"""

from rewards.base import Columns, Score
from rewards.columns import list_column, texts_column
from rewards.ifeval.verdicts import judge


def ifeval_reward(completion: str, columns: Columns) -> Score:
    """Score one completion strictly; DataError or ConfigError for a row that is wrong.

    Reasons: ok (all followed), partly, none, empty.
    """
    return _score(completion, columns, is_loose=False)


def ifeval_loose_reward(completion: str, columns: Columns) -> Score:
    """Score one completion loosely; raises and reasons as `ifeval_reward`, strict ones too."""
    return _score(completion, columns, is_loose=True)


def _score(completion: str, columns: Columns, *, is_loose: bool) -> Score:
    ids, kwargs = texts_column(columns, "instruction_id_list"), list_column(columns, "kwargs")
    strict, loose = judge(completion, ids, kwargs)
    counted = loose if is_loose else strict
    return Score(
        reward=sum(counted) / len(counted),
        passed=all(strict),
        metrics={
            "prompt_strict": float(all(strict)),
            "prompt_loose": float(all(loose)),
            "followed_strict": float(sum(strict)),
            "followed_loose": float(sum(loose)),
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
