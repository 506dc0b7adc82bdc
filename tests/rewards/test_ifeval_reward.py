"""The verdicts on a whole IFEval prompt, strict and loose, and the two rewards made of them."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import ConfigError, DataError
from rewards.ifeval import CHECKERS
from rewards.ifeval.verdicts import Verdicts, accuracies, judge, loose_variants
from rewards.instruction_following import ifeval_reward

ALL_ARGUMENTS = {
    "relation": "at least",
    "let_relation": "at least",
    "capital_relation": "at least",
    "section_spliter": "Section",
    "postscript_marker": "P.S.",
    "end_phrase": "That is all.",
    "prompt_to_repeat": "Bake bread.",
    "keyword": "bread",
    "keywords": ["bread"],
    "forbidden_words": ["oven"],
    "first_word": "bread",
    "letter": "e",
    "language": "en",
}
IDS = list(CHECKERS)
KWARGS = [
    {name: ALL_ARGUMENTS.get(name, 1) for name in checker.arguments}
    for checker in CHECKERS.values()
]
MARKS = """* ** *** ****** - . ? ! ?! , : ; " ' ” ’ « ` ``` [ ] { } < > ( ) << >> # @ -- ... 1 $"""  # noqa: RUF001
WORDS = "bread Oven BREAD IT'S That is all. P.S. Section 1 [a] <<a>> {} Dr. a.m. é 中文 नमस्ते 🙂 Σ ǅ"
BLANKS = (" ", "\n", "\n\n", "\x1c", "\u2028", "\u0301", "\ud800", "\x00")
PIECES = st.sampled_from((*MARKS.split(), *WORDS.split(), *BLANKS))
# What a pattern might try again from each place.
UNITS = "a A a. A.) A. ? a@ @a http:// P. It's --a -.- ,a [a* a-a. ,, .. 1, <<a"
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))


@given(response=TEXTS)
def test_no_response_crashes_and_loose_is_never_below_strict(response):
    verdicts = judge(response, IDS, KWARGS)
    assert len(verdicts.strict) == len(verdicts.loose) == 25
    assert all(map(lambda strict, loose: loose or not strict, *verdicts))
    assert judge(response, IDS, KWARGS) == verdicts


@pytest.mark.parametrize("unit", (*MARKS.split(), *UNITS.split(), *BLANKS, ". ", "A. ", "' "))
def test_no_response_takes_a_second(unit):
    response = unit * (20_000 // len(unit))
    for instruction_id, kwargs in zip(IDS, KWARGS, strict=True):
        start = time.process_time()
        judge(response, [instruction_id], [kwargs])
        assert time.process_time() - start < 1.0, instruction_id


def test_loose_variants():
    response = "Sure:\n*bread*\n\nBye."
    assert loose_variants(response) == [
        "*bread*\n\nBye.",
        "Sure:\n*bread*",
        "*bread*",
        "Sure:\nbread\n\nBye.",
        "bread\n\nBye.",
        "Sure:\nbread",
        "bread",
    ]
    assert loose_variants("bread") == []
    assert loose_variants("**") == []


@pytest.mark.parametrize(
    ("response", "strict", "loose"),
    [
        ('"bread"', (True, True), (True, True)),
        ('Sure, here:\n"bread"', (False, False), (True, True)),
        ('Sure:\n"bread"\nHope that helps, bye.', (False, False), (True, True)),
        ('**"bread"**', (False, True), (True, True)),
        ('"bread, oven"', (True, False), (True, False)),
        (" \n", (False, False), (False, False)),
    ],
)
def test_strict_and_loose_verdicts(response, strict, loose):
    ids = ["startend:quotation", "punctuation:no_comma"]
    assert judge(response, ids, [{}, {}]) == Verdicts(strict, loose)


@pytest.mark.parametrize(
    ("response", "is_followed"),
    [
        ("this is plain english about bread and ovens.", True),
        ("das ist ein kurzer text über brot und öfen.", False),
        ("This is plain English about bread and ovens.", False),
    ],
)
def test_lowercase_asks_for_english_too(response, is_followed):
    assert judge(response, ["change_case:english_lowercase"], [{}]).strict == (is_followed,)


def test_accuracies():
    rows = [Verdicts((True, False), (True, True)), Verdicts((True,), (True,))]
    assert accuracies(rows) == (0.5, 2 / 3, 1.0, 1.0)
    with pytest.raises(DataError, match="no IFEval responses"):
        accuracies([])


ROW = {
    "instruction_id_list": ["startend:quotation", "punctuation:no_comma"],
    "kwargs": [{}, {"num_words": None}],
}


def test_a_reward_is_the_fraction_that_is_followed():
    score = ifeval_reward('Sure:\n"bread"', ROW)
    assert (score.reward, score.passed, score.reason) == (0.5, False, "partly")
    assert score.metrics == {
        "prompt_strict": 0.0,
        "prompt_loose": 1.0,
        "followed_strict": 1.0,
        "followed_loose": 2.0,
        "instructions": 2.0,
    }
    loose = ifeval_reward('Sure:\n"bread"', ROW, loose=True)
    assert loose == score._replace(reward=1.0)


@pytest.mark.parametrize(
    ("completion", "reward", "reason"),
    [('"a"', 1.0, "ok"), ("a, b", 0.0, "none"), ("", 0.0, "empty")],
)
def test_reasons(completion, reward, reason):
    score = ifeval_reward(completion, ROW)
    assert (score.reward, score.reason, score.passed) == (reward, reason, reason == "ok")


@pytest.mark.parametrize(
    ("ids", "kwargs", "error", "message"),
    [
        (["no:such"], [{}], ConfigError, "'no:such'.*There are: change_case:"),
        (["keywords:frequency"], [{}], DataError, "needs the argument 'keyword'.*takes keyword, f"),
        (["punctuation:no_comma"], [{"x": 1}], DataError, "has no argument 'x'"),
        (["punctuation:no_comma"], ["x"], DataError, "not a mapping"),
        (["punctuation:no_comma"], [], DataError, "1 instruction id.*and 0 kwargs"),
        ([], [], DataError, "give one or more"),
    ],
)
def test_wrong_rows_are_refused(ids, kwargs, error, message):
    with pytest.raises(error, match=message):
        ifeval_reward("bread", {"instruction_id_list": ids, "kwargs": kwargs})


def test_a_text_has_one_language_whatever_was_asked_before():
    from rewards.ifeval.detection import detect_language

    texts = ["ok then", "no me gusta", "bra", "a b c"]
    answers = [detect_language(text) for text in texts]
    assert [detect_language(text) for text in reversed(texts)] == answers[::-1]


def test_import_loads_no_data():
    code = (
        "import sys, rewards.registry; "
        "assert not {'langdetect', 'punkt', 'nltk'} & set(sys.modules), 'loaded at import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
