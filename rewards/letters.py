"""The toy reward of the `letters` task: the share of the answer that is small letters.

Even a random model can learn it, in seconds: it is what the tiny configuration and the tests run
on.
"""

from rewards.base import Columns, Score

PASS_SHARE = 0.5


def letters_reward(completion: str, columns: Columns) -> Score:
    """Share of characters from a to z, in [0, 1]; passes from `PASS_SHARE` on."""
    del columns
    if not completion:
        return Score(0.0, False, {}, "empty")
    share = sum("a" <= character <= "z" for character in completion) / len(completion)
    is_passed = share >= PASS_SHARE
    return Score(share, is_passed, {}, "ok" if is_passed else "other_characters")
