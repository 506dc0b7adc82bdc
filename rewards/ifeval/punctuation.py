"""punctuation: no commas anywhere in the answer."""

from rewards.ifeval.base import Arguments, Checker, Follows


def _no_comma(_: Arguments) -> Follows:
    return lambda response: "," not in response


def _no_comma_progress(response: str, _: Arguments) -> float:
    return 1 / (1 + response.count(","))


CHECKERS = (Checker("punctuation:no_comma", {}, _no_comma, _no_comma_progress),)
