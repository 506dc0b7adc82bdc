"""IFEval's strict verdicts, literally, and the slope below them.

`test_ifeval_agreement` compares all of them with lm-eval.
"""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.errors import ConfigError, DataError
from rewards.ifeval import CHECKERS, get_checker

BRIEF = "length_constraints:number_words"
SENTENCES = "length_constraints:number_sentences"
FIRST_WORD = "length_constraints:nth_paragraph_first_word"
CAPITALS = "change_case:capital_word_frequency"
LETTERS = "keywords:letter_frequency"
ARGUMENTS = {
    SENTENCES: {"relation": "at least", "num_sentences": 2},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    FIRST_WORD: {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "bread"},
    CAPITALS: {"capital_relation": "less than", "capital_frequency": 2},
    "keywords:frequency": {"keyword": "bread", "relation": "at least", "frequency": 2},
    "keywords:forbidden_words": {"forbidden_words": ["bread", "oven"]},
    LETTERS: {"letter": "!", "let_relation": "at least", "let_frequency": 2},
    "language:response_language": {"language": "en"},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:multiple_sections": {"section_spliter": "PART", "num_sections": 2},
    "combination:repeat_prompt": {"prompt_to_repeat": "Bake bread."},
    BRIEF: {"relation": "less than", "num_words": 4},
    "startend:end_checker": {"end_phrase": "That is all."},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "keywords:existence": {"keywords": ["bread", "oven"]},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
}
BLANKS_AND_MARKS = ('"', "<<", ">>", "<", "* ", "*", "- ", ",", ".", "“", " ", "\n", "\t", "\xa0")
WORDS = (
    "bread",
    "OVEN",
    "That is all.",
    "P.S.",
    "p. s.",
    "P.P.S",
    "HELLO",
    "hello",
    "ǅ",
    "ß",
    "1. ",
)
PIECES = st.sampled_from((*BLANKS_AND_MARKS, *WORDS))
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join))


KINDS = list(CHECKERS)


@pytest.mark.parametrize(
    ("instruction_id", "kwargs", "response", "follows"),
    [
        ("change_case:english_lowercase", {}, "bread is baked daily.", True),
        ("change_case:english_lowercase", {}, "Bread is baked daily.", False),
        ("change_case:english_lowercase", {}, "123 !", False),
        ("change_case:english_capital", {}, "BREAD IS BAKED.", True),
        ("change_case:english_capital", {}, "BREAD IS BAKEd.", False),
        ("change_case:english_capital", {}, "42", False),
        ("startend:quotation", {}, ' "bread" \n', True),
        ("startend:quotation", {}, '"bread".', False),
        ("startend:quotation", {}, '"', False),
        ("startend:quotation", {}, "“bread”", False),
        ("punctuation:no_comma", {}, "bread and oven", True),
        ("punctuation:no_comma", {}, "bread, oven", False),
        ("startend:end_checker", {"end_phrase": "The end."}, 'Bread. "THE END." ', True),
        ("startend:end_checker", {"end_phrase": " The end. "}, "Bread. The end", False),
        ("detectable_format:title", {}, "<<Bread>>\nIt is baked.", True),
        ("detectable_format:title", {}, "<< >> bread", False),
        ("detectable_format:title", {}, "<<Bread\n>>", False),
        ("detectable_format:title", {}, "<Bread>", False),
        ("detectable_format:title", {}, "<<<>>>", False),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "** a\n* b", False),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b\n* c", False),
        ("keywords:existence", {"keywords": ["bread", "oven"]}, "Breadcrumbs in OVENS", True),
        ("keywords:existence", {"keywords": ["bread", "oven"]}, "bread", False),
        ("keywords:existence", {"keywords": ["o.en"]}, "an oven", True),
        (BRIEF, {"relation": "less than", "num_words": 3}, "two words", True),
        (BRIEF, {"relation": "less than", "num_words": 3}, "it's two", False),
        (BRIEF, {"relation": "at least", "num_words": 3}, "it's two", True),
        (BRIEF, {"relation": "at least", "num_words": 3}, "two words!", False),
        (
            "detectable_content:postscript",
            {"postscript_marker": "P.S."},
            "Hi.\np. s. Bye",
            True,
        ),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi. PS Bye", False),
        (
            "detectable_content:postscript",
            {"postscript_marker": "P.P.S"},
            "Hi. P.P.S. Bye",
            True,
        ),
        (
            "detectable_content:postscript",
            {"postscript_marker": "Note:"},
            "Hi. NOTE: Bye",
            True,
        ),
        (
            "detectable_content:number_placeholders",
            {"num_placeholders": 2},
            "[a] [[b]] c]",
            True,
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b\n]", False),
        ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[]", True),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 2},
            "*a* *b*",
            True,
        ),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 1},
            "*a\nb*",
            False,
        ),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 1},
            "** **",
            False,
        ),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 2},
            "**a**",
            False,
        ),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "PART", "num_sections": 2},
            "PART 1\na\nPART2 b",
            True,
        ),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "PART", "num_sections": 2},
            "PART 1\na\nPart 2 b",
            False,
        ),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', True),
        ("detectable_format:json_format", {}, '{"a": 1,}', False),
        ("detectable_format:json_format", {}, "[" * 100_000, False),
        ("detectable_format:constrained_response", {}, "**My answer is maybe.**", True),
        ("detectable_format:constrained_response", {}, "my answer is yes.", False),
        (
            "keywords:frequency",
            {"keyword": "a", "relation": "at least", "frequency": 3},
            "aAa",
            True,
        ),
        (
            "keywords:frequency",
            {"keyword": "a", "relation": "less than", "frequency": 3},
            "aAa",
            False,
        ),
        ("keywords:forbidden_words", {"forbidden_words": ["oven"]}, "Ovens and coven", True),
        ("keywords:forbidden_words", {"forbidden_words": ["oven"]}, "The OVEN.", False),
        (
            LETTERS,
            {"letter": "#", "let_relation": "at least", "let_frequency": 4},
            "#a #b ##",
            True,
        ),
        (
            LETTERS,
            {"letter": "#", "let_relation": "at least", "let_frequency": 4},
            "#a #b #",
            False,
        ),
        (
            LETTERS,
            {"letter": "Q", "let_relation": "less than", "let_frequency": 2},
            "Qq",
            False,
        ),
        ("combination:two_responses", {}, "a ****** b", True),
        ("combination:two_responses", {}, "******a\n******\nb******", True),
        ("combination:two_responses", {}, "a ****** a", False),
        ("combination:two_responses", {}, "a ****** ****** b", False),
        (
            "combination:repeat_prompt",
            {"prompt_to_repeat": "Bake bread."},
            " bake BREAD. ok",
            True,
        ),
        (
            "combination:repeat_prompt",
            {"prompt_to_repeat": "Bake bread."},
            "Ok: bake bread.",
            False,
        ),
        (
            SENTENCES,
            {"relation": "less than", "num_sentences": 2},
            "Dr. Li met J. Bach at 9 a.m. today.",
            True,
        ),
        (
            SENTENCES,
            {"relation": "at least", "num_sentences": 3},
            'He left. "Why?" No one knew.',
            True,
        ),
        (
            SENTENCES,
            {"relation": "at least", "num_sentences": 3},
            "He left... then came back!!",
            False,
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***a\n***\nb", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** *** b", False),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, "a\n\nb", True),
        (FIRST_WORD, ARGUMENTS[FIRST_WORD], 'Hi.\n\n"Bread," she said', True),
        (FIRST_WORD, ARGUMENTS[FIRST_WORD], "Hi.\n\nBreads rise", False),
        (FIRST_WORD, ARGUMENTS[FIRST_WORD], "Hi.\n\n \n\nBread", False),
        (CAPITALS, {"capital_relation": "at least", "capital_frequency": 3}, "IT'S NASA", True),
        (
            CAPITALS,
            {"capital_relation": "at least", "capital_frequency": 3},
            "WELL-KNOWN U.S.",
            False,
        ),
        (
            CAPITALS,
            {"capital_relation": "less than", "capital_frequency": 1},
            "No word. Not One!",
            True,
        ),
        ("language:response_language", {"language": "de"}, "Das Wetter ist heute schön.", True),
        ("language:response_language", {"language": "de"}, "The weather is fine today.", False),
        ("language:response_language", {"language": "de"}, "42", True),
    ],
)
def test_strict_verdicts(instruction_id, kwargs, response, follows):
    assert get_checker(instruction_id).follows(response, **kwargs) is follows


@pytest.mark.parametrize("instruction_id", KINDS)
@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_a_blank_response_follows_nothing(instruction_id, blank):
    checker, kwargs = get_checker(instruction_id), ARGUMENTS.get(instruction_id, {})
    assert checker.follows(blank, **kwargs) is False
    assert checker.progress(blank, **kwargs) == 0.0


@pytest.mark.parametrize(
    ("instruction_id", "kwargs", "worse_to_better"),
    [
        (
            "change_case:english_lowercase",
            {},
            ["BREAD AND OVEN", "Bread And Oven", "Bread and Oven", "Bread and oven"],
        ),
        ("change_case:english_capital", {}, ["bread here", "Bread here", "BREAD here"]),
        ("startend:quotation", {}, ["bread", "“bread", '"bread', '"bread”', '"bread"']),
        ("punctuation:no_comma", {}, ["a, b, c", "a, b c", "a b c"]),
        (
            "startend:end_checker",
            {"end_phrase": "That is all."},
            ["bread", "That was bread", "That is all. Bread is good", "bread. That is all!"],
        ),
        ("detectable_format:title", {}, ["bread", "<bread>", "<<bread>", "<<bread>>"]),
        (
            "detectable_format:number_bullet_lists",
            {"num_bullets": 3},
            ["bread", "1. a\n2. b\n3. c", "* a\n* b", "* a\n* b\n* c"],
        ),
        ("keywords:existence", {"keywords": ["bread", "oven"]}, ["x", "bread", "bread oven"]),
        (BRIEF, {"relation": "less than", "num_words": 3}, ["a b c d e", "a b c", "a b"]),
        (BRIEF, {"relation": "at least", "num_words": 3}, ["a", "a b", "a b c d"]),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x", "PS x", "P.S. x"]),
        (
            CAPITALS,
            {"capital_relation": "at least", "capital_frequency": 3},
            ["so it is", "SO it is", "SO IT is", "SO IT IS"],
        ),
        (
            CAPITALS,
            {"capital_relation": "less than", "capital_frequency": 2},
            ["SO IT IS", "SO IT is", "so it is"],
        ),
        (
            "combination:two_responses",
            {},
            ["a", "a\n---\nb", "a****** ", "a******b******c", "a******b"],
        ),
        (
            "combination:repeat_prompt",
            {"prompt_to_repeat": "Say it again."},
            ["x", "x Say it", "Say it!", "Say it again", "say it again. x"],
        ),
        (
            "detectable_content:number_placeholders",
            {"num_placeholders": 2},
            ["x", "<x>", "<x> {y}", "[x] {y}", "[x] [y]"],
        ),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 3},
            ["x", "_x_", "*x*", "*x* *y*", "*x* *y* *z*"],
        ),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "PART", "num_sections": 2},
            ["x", "Part 1 x", "Part 1 x Part 2 y", "PART 1 x Part 2 y", "PART 1 x PART 2 y"],
        ),
        (
            "detectable_format:json_format",
            {},
            ["x", "{x", '{"a": x', '{"a": "b", "c": d}', '{"a": "b"}'],
        ),
        (
            "detectable_format:constrained_response",
            {},
            ["x", "My answer: no", "My answer is good", "my answer is no.", "My answer is no."],
        ),
        (
            "keywords:frequency",
            {"keyword": "bread", "frequency": 3, "relation": "at least"},
            ["x", "bread", "bread bread", "bread bread bread"],
        ),
        (
            "keywords:frequency",
            {"keyword": "bread", "frequency": 1, "relation": "less than"},
            ["bread bread", "bread", "x"],
        ),
        (
            "keywords:forbidden_words",
            {"forbidden_words": ["bread", "oven"]},
            ["bread oven bread", "bread oven", "oven", "x"],
        ),
        (
            "keywords:letter_frequency",
            {"letter": "a", "let_frequency": 3, "let_relation": "at least"},
            ["b", "a", "aa", "aaa"],
        ),
        (
            "keywords:letter_frequency",
            {"letter": "a", "let_frequency": 2, "let_relation": "less than"},
            ["aaaa", "aa", "a"],
        ),
        (
            "length_constraints:number_sentences",
            {"relation": "at least", "num_sentences": 3},
            ["It is.", "It is. It was.", "It is. It was. It will be."],
        ),
        (
            "length_constraints:number_sentences",
            {"relation": "less than", "num_sentences": 2},
            ["It is. It was. It will be.", "It is. It was.", "It is."],
        ),
        (
            "length_constraints:number_paragraphs",
            {"num_paragraphs": 3},
            ["a", "a\n\nb", "a\n\nb\n\nc", "a *** b", "a *** b *** c"],
        ),
        (
            FIRST_WORD,
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "bread"},
            ["x", "bread", "x\n\ny bread", "bread\n\ny", "x\n\nbread y\n\nz", "x\n\nbread y"],
        ),
        (
            "language:response_language",
            {"language": "ru"},
            ["the weather", "the weather is fine погода", "Сегодня хорошая погода и дети играют."],
        ),
    ],
)
def test_progress_has_a_slope(instruction_id, kwargs, worse_to_better):
    checker = get_checker(instruction_id)
    progress = [checker.progress(response, **kwargs) for response in worse_to_better]
    assert progress == sorted(set(progress))


def test_literal_progress():
    assert get_checker("startend:quotation").progress('"bread') == 0.5
    assert get_checker("punctuation:no_comma").progress("a, b, c") == pytest.approx(1 / 3)
    # 9 of 11 letters are right, two words hold a capital.
    assert get_checker("change_case:english_lowercase").progress("Bread Is good") == pytest.approx(
        0.5 * 9 / 11 + 0.5 / 3
    )


@pytest.mark.parametrize("instruction_id", KINDS)
@given(response=TEXTS)
def test_no_string_crashes_and_progress_is_one_exactly_when_followed(instruction_id, response):
    checker, kwargs = get_checker(instruction_id), ARGUMENTS.get(instruction_id, {})
    progress = checker.progress(response, **kwargs)
    assert 0.0 <= progress <= 1.0
    assert (progress == 1.0) is checker.follows(response, **kwargs)


@given(response=TEXTS)
@example("*\n* a\n\n *b")
@example("<<<>>>>")
def test_linear_patterns_agree_with_ifevals_own(response):
    titles = re.findall(r"<<[^\n]+>>", response)
    has_title = any(title.lstrip("<").rstrip(">").strip() for title in titles)
    assert get_checker("detectable_format:title").follows(response) is has_title
    num_bullets = len(re.findall(r"^\s*\*[^\*].*$", response, flags=re.MULTILINE)) + len(
        re.findall(r"^\s*-.*$", response, flags=re.MULTILINE)
    )
    bullets = get_checker("detectable_format:number_bullet_lists")
    for wanted in (1, 2, 3):
        assert bullets.follows(response, num_bullets=wanted) is (num_bullets == wanted)
    postscript = get_checker("detectable_content:postscript")
    for marker, pattern in (("P.S.", r"\s*p\.\s?s\..*$"), ("P.P.S", r"\s*p\.\s?p\.\s?s.*$")):
        found = bool(re.findall(pattern, response.lower(), flags=re.MULTILINE))
        assert postscript.follows(response, postscript_marker=marker) is found


@pytest.mark.parametrize("unit", [" ", "\n", "<", "<<", "*", "- ", "a", "p.", '"', "That is ", "“"])
@pytest.mark.parametrize("instruction_id", KINDS)
def test_long_responses_take_no_time(instruction_id, unit):
    checker, kwargs = get_checker(instruction_id), ARGUMENTS.get(instruction_id, {})
    start = time.process_time()
    checker.progress(unit * 20_000, **kwargs)
    assert time.process_time() - start < 1.0


def test_unknown_id_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'startend:quotation'"):
        get_checker("startend:quotations")


@pytest.mark.parametrize("instruction_id", ARGUMENTS)
def test_missing_argument_is_named(instruction_id):
    name = next(iter(ARGUMENTS[instruction_id]))
    with pytest.raises(DataError, match=f"{instruction_id} needs the argument '{name}'"):
        get_checker(instruction_id).follows("bread")


@pytest.mark.parametrize(
    ("instruction_id", "kwargs"),
    [
        ("startend:end_checker", {"end_phrase": " "}),
        ("startend:end_checker", {"end_phrase": 3}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 0}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2.5}),
        ("detectable_format:number_bullet_lists", {"num_bullets": True}),
        ("detectable_format:number_bullet_lists", {"num_bullets": float("nan")}),
        ("keywords:existence", {"keywords": []}),
        ("keywords:existence", {"keywords": "bread"}),
        ("keywords:existence", {"keywords": ["("]}),
        ("keywords:frequency", {"keyword": "(", "relation": "at least", "frequency": 1}),
        ("keywords:forbidden_words", {"forbidden_words": ["("]}),
        (LETTERS, {"letter": "ab", "let_relation": "at least", "let_frequency": 1}),
        (BRIEF, {"relation": "at most", "num_words": 3}),
        (FIRST_WORD, {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
        ("detectable_content:postscript", {"postscript_marker": "("}),
        ("punctuation:no_comma", {"num_bullets": 2}),
    ],
)
def test_wrong_arguments_are_refused(instruction_id, kwargs):
    with pytest.raises(DataError, match=instruction_id):
        get_checker(instruction_id).progress("bread", **kwargs)


def test_an_unknown_language_is_refused():
    with pytest.raises(DataError, match=r"language='klingon' cannot be detected.*There are: af, "):
        get_checker("language:response_language").build({"language": "klingon"})


def test_a_checker_is_built_once_for_its_arguments():
    check = get_checker("keywords:existence").build({"keywords": ["bread", "oven"]})
    assert [check("bread"), check("an oven, bread")] == [False, True]


def test_there_are_all_25_kinds():
    assert len(CHECKERS) == 25


def test_unused_arguments_may_be_none():
    assert get_checker("punctuation:no_comma").follows("bread", num_bullets=None)
