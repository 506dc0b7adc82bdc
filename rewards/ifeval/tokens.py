"""Words in capitals, counted by the tokens of NLTK 3.10's word_tokenize (Penn Treebank rules).

Our own form of the rules, reduced to what parts two letters: how marks alone are divided does not
change the count. A test compares the counts with NLTK's where that is installed.
"""

import re

import regex

from rewards.ifeval.sentences import split_sentences

# The rules that NLTK leaves to `re`, whose \b is another, and applies last.
_JOINED_WORDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(can(?=not\b)|d(?='ye\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)"
        r"|more(?='n\b)|wan(?=na\s))(not|'ye|me|na|ta|'n)",
        r" ('t)(is|was)\b",
    )
)
# A token in capitals shows one of these in ASCII text, since no rule parts a letter from the next
# except in joined words and before N'T, whose halves hold one too.
_LONE_CAPITAL = re.compile(r"(?<![a-z])[A-Z](?![a-z])")
# In order: each rule sees the blanks that the ones before it put in.
_RULES: tuple[tuple[regex.Pattern[str], str], ...] = tuple(
    (regex.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«“‘„]|`+", r" \g<0> "),  # noqa: RUF001 (these characters are the point)
        (r'^"', " `` "),
        (r"([ (\[{<])(?:\"|'')", r"\1 `` "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        (r"""([^.])(\.)([\])}>"'»”’ ]*+)\s*$""", r"\1 \2 \3 "),  # noqa: RUF001
        (r"([:,])([^\d])", r" \1 \2"),
        (r"[:,]$", r" \g<0> "),
        (r"\.{2,}|[;@#$%&?!\u2012-\u2015]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"--|[*\][(){}<>]", r" \g<0> "),
        (r"''|[\"»”’]", r" \g<0> "),  # noqa: RUF001
        (r"^|\s+|$", " "),
        (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    )
)


def num_capital_words(text: str) -> int:
    """How many tokens hold a capital letter and no small one."""
    return sum(
        token.isupper()
        for sentence in split_sentences(text)
        if not sentence.isascii() or _LONE_CAPITAL.search(sentence)
        for token in _tokens(sentence)
    )


def _tokens(sentence: str) -> list[str]:
    for pattern, replacement in _RULES:
        sentence = pattern.sub(replacement, sentence)
    for pattern in _JOINED_WORDS:
        sentence = pattern.sub(r" \1 \2 ", sentence)
    return sentence.split()
