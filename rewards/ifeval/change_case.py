"""change_case: the whole answer in lowercase, in capitals, or with so many words in capitals.

The share of right letters alone is a poor slope: an ordinary English sentence is 96 % lowercase
already. Half of the progress therefore comes from the number of words that still hold a wrong
letter. IFEval's language detection is left out, see `rewards.ifeval.base`.

Words in capitals are counted as IFEval counts them, by the tokens of the Penn Treebank: a clitic
is a word of its own (IT'S has two), a hyphen joins.
"""

from rewards.ifeval.base import Arguments, Checker, Follows, bound_progress, count, holds
from rewards.ifeval.tokens import num_capital_words


def _lowercase(_: Arguments) -> Follows:
    return str.islower


def _capital(_: Arguments) -> Follows:
    return str.isupper


def _capital_words(kwargs: Arguments) -> Follows:
    is_right = holds(kwargs, "capital_relation", "capital_frequency")
    return lambda response: is_right(num_capital_words(response))


def _capital_words_progress(response: str, kwargs: Arguments) -> float:
    found = num_capital_words(response)
    return bound_progress(found, kwargs["capital_relation"], count(kwargs, "capital_frequency"))


def _lowercase_progress(response: str, _: Arguments) -> float:
    num_right = sum(map(str.islower, response))
    # Titlecase digraphs are neither upper nor lower; `istitle` of one character covers upper too.
    num_wrong = sum(map(str.istitle, response))
    num_wrong_words = sum(word != word.lower() for word in response.split())
    return _case_progress(num_right, num_wrong, num_wrong_words)


def _capital_progress(response: str, _: Arguments) -> float:
    num_right = sum(map(str.isupper, response))
    num_wrong = sum(map(str.islower, response))
    num_wrong_words = sum(word != word.upper() for word in response.split())
    return _case_progress(num_right, num_wrong, num_wrong_words)


def _case_progress(num_right: int, num_wrong: int, num_wrong_words: int) -> float:
    if num_right == 0:
        return 0.0
    share = num_right / (num_right + num_wrong)
    return 0.5 * share + 0.5 / (1 + num_wrong_words)


CHECKERS = (
    Checker("change_case:english_lowercase", {}, _lowercase, _lowercase_progress, is_english=True),
    Checker("change_case:english_capital", {}, _capital, _capital_progress, is_english=True),
    Checker(
        "change_case:capital_word_frequency",
        {"capital_relation": "relation", "capital_frequency": "count"},
        _capital_words,
        _capital_words_progress,
    ),
)
