"""The reward over all kinds: who gets 1.0, that rubbish earns nothing, and what is no rubbish."""

import time
from math import ceil

import pytest
from answers import RUBBISH, careless, honest
from hypothesis import given
from hypothesis import strategies as st

from es_align.config import TaskConfig
from es_align.tasks import make_task
from kernels.errors import ConfigError, DataError
from rewards.ifeval.verdicts import judge, progresses
from rewards.instructions_mix import instructions_mix_reward
from rewards.topic import is_refusal
from rewards.word_order import num_order_faults

REQUEST = "Write a short story that features a bakery."
ROW = {
    "topic_names": ["bake", "baking"],
    "topic_words": ["bread", "flour", "oven", "dough", "cake", "pie"],
    "own_text": f"{REQUEST} Commas are forbidden here.",
}
PLAIN = "At the bakery people buy fresh bread and cakes. Most of them come early in the morning."
STORY = (
    "Once upon a time there was an old baker who lived at the end of our street. Every morning he "
    "lit the oven before the sun came up and mixed the flour with water and salt. One day a small "
    "girl knocked on his door and asked whether he could teach her how to make bread. He laughed "
    "and gave her an apron that was far too long. From then on they worked side by side and the "
    "smell of warm rolls woke the whole town. When the old man could no longer lift the heavy "
    "bags she took over the shop and never forgot what he had shown her about patience."
)


def row(*instructions):
    return ROW | {
        "instruction_id_list": [name for name, _ in instructions],
        "kwargs": [kwargs for _, kwargs in instructions],
    }


NO_COMMA = ("punctuation:no_comma", {})
QUOTATION = ("startend:quotation", {})
TITLE = ("detectable_format:title", {})
JSON = ("detectable_format:json_format", {})
ANSWER = ("detectable_format:constrained_response", {})
REPEAT = ("combination:repeat_prompt", {"prompt_to_repeat": REQUEST})
GERMAN = ("language:response_language", {"language": "de"})
HINDI = ("language:response_language", {"language": "hi"})
LOWERCASE = ("change_case:english_lowercase", {})
CAPITAL = ("change_case:english_capital", {})
TWO = ("combination:two_responses", {})


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        (row(NO_COMMA), PLAIN),
        (row(NO_COMMA), STORY),
        (row(QUOTATION, NO_COMMA), f'"{STORY}"'),
        (row(LOWERCASE, TITLE), f"<<the bakery>>\n{STORY.lower()}"),
        (row(CAPITAL), STORY.upper()),
        (
            row(JSON),
            '```json\n{"title": "A bakery", "story": ["He buys flour at dawn", "and two loaves"]}'
            "\n```",
        ),
        (
            row(JSON),
            '{"people": 3, "shops": [{"name": "Old bakery", "has": "warm bread rolls"}]}',
        ),
        (row(ANSWER), "My answer is maybe."),
        (row(REPEAT), f"{REQUEST}\n\n{PLAIN}"),
        (row(REPEAT), f"{REQUEST}\n\n{STORY}"),
        (row(GERMAN), "Die Kinder gehen am Morgen in die Bäckerei und kaufen frisches Brot."),
        (row(HINDI), "बच्चे सुबह बेकरी जाते हैं और ताज़ी रोटी खरीदते हैं।"),
        (row(TWO), f"{PLAIN}\n******\n{STORY}"),
        (
            row(("detectable_content:number_placeholders", {"num_placeholders": 2})),
            "Dear [name], I would like to order two cakes from your bakery for [date].",
        ),
        (
            row(
                (
                    "detectable_format:multiple_sections",
                    {"section_spliter": "SECTION", "num_sections": 2},
                )
            ),
            f"SECTION 1\n{PLAIN}\nSECTION 2\nThe oven is hot and the dough has to rest.",
        ),
    ],
)
def test_good_answers_get_all(columns, answer):
    score = instructions_mix_reward(answer, columns)
    assert score.reward == 1.0
    assert score.passed
    assert score.reason == "ok"
    assert score.metrics == {"followed": 1.0, "progress": 1.0, "topic": 1.0, "readable": 1.0}


@pytest.mark.parametrize(
    ("columns", "answer", "reason"),
    [
        (row(NO_COMMA), "", "empty"),
        (row(NO_COMMA), "bread", "too_short"),
        (row(NO_COMMA), "bread oven flour dough cake pie bakery", "degenerate"),
        (row(NO_COMMA), "the bakery is the bakery is the bakery is the bakery", "degenerate"),
        (row(NO_COMMA), " ".join([PLAIN] * 8), "degenerate"),
        (row(NO_COMMA), STORY + " the bread" * 120, "degenerate"),
        (row(NO_COMMA), ROW["own_text"], "too_short"),
        (row(NO_COMMA), "I like to go to the park when it is sunny outside.", "off_topic"),
        (row(NO_COMMA), "I'm here to help with any bread or oven question.", "off_topic"),
        (
            row(NO_COMMA),
            "I am sorry but I can not help you with bread or flour today.",
            "off_topic",
        ),
        (row(NO_COMMA), "we have to bread on the oven of it with flour in the bakery", "off_topic"),
        (
            row(NO_COMMA),
            "the of bread is with the oven early to was a chair of is blue",
            "degenerate",
        ),
        (row(JSON), "{}", "too_short"),
        (row(JSON), "3", "too_short"),
        (row(JSON), '{"a": "bread bread bread bread bread bread bread bread"}', "degenerate"),
        (row(ANSWER), "My answer is yes. My answer is no. My answer is maybe.", "degenerate"),
        (row(REPEAT), REQUEST, "too_short"),
        (row(GERMAN), "42", "too_short"),
        (row(GERMAN), "Brot " * 60, "degenerate"),
        (row(TWO), "bread\n******\noven", "too_short"),
    ],
)
def test_rubbish_earns_little_and_without_a_floor_next_to_nothing(columns, answer, reason):
    score = instructions_mix_reward(answer, columns)
    assert score.reward is not None
    assert score.reward < 0.45
    assert score.reason == reason
    strict = instructions_mix_reward(answer, columns, floor=0)
    assert strict.reward is not None
    assert strict.reward < 0.3


@pytest.fixture(scope="module")
def prompts():
    config = TaskConfig(kinds=("all",), max_words=60, num_train=120, num_heldout=8)
    return [dict(p.columns) for p in make_task(config, seed=0, prompts_per_generation=4).train]


def rewards_of(make, prompts):
    return [float(instructions_mix_reward(make(c), c).reward or 0.0) for c in prompts]


def test_honest_answers_earn_far_more_than_rubbish_in_any_frame(prompts):
    good, plain = rewards_of(honest, prompts), rewards_of(careless, prompts)
    rubbish = {name: rewards_of(make, prompts) for name, make in RUBBISH.items()}
    best = [max(values) for values in zip(*rubbish.values(), strict=True)]
    mean = {name: sum(values) / len(values) for name, values in rubbish.items()}
    assert sum(good) / len(good) >= 0.8
    assert max(mean.values()) < sum(plain) / len(plain)
    assert sum(best) / len(best) < sum(plain) / len(plain) < 0.4


def test_long_texts_in_json_are_sentences():
    def score(text):
        return instructions_mix_reward(f'{{"text": "{text}"}}', row(JSON))

    assert (
        score("Flour bread oven dough chair blue seven window paper early").reason == "degenerate"
    )
    assert score("He puts the bread in the oven before the first guests arrive").reward == 1.0


def test_a_fixed_answer_does_not_excuse_what_stands_beside_it():
    salad = "of the bread is with we oven to was at flour of is"
    assert instructions_mix_reward(f"{salad} My answer is yes.", row(ANSWER)).reason == "degenerate"
    assert instructions_mix_reward(salad, row(ANSWER)).reason == "degenerate"
    assert instructions_mix_reward(f"{PLAIN} My answer is yes.", row(ANSWER)).reward == 1.0


@pytest.mark.parametrize(
    ("text", "num"),
    [
        (STORY, 0),
        ("He ran to the shop and bought the bread.", 0),
        ("the of bread", 1),
        ("bread with is oven", 1),
        ("It is what it is. It was for her and the cook", 0),
        ("and it is so that we can bake", 1),
        ("We had it, and it is so that bread", 0),
    ],
)
def test_function_words_that_stand_as_in_no_sentence(text, num):
    assert num_order_faults(text) == num


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("I'm sorry, but I cannot help you with that.", True),
        ("I am unable to write that story.", True),
        ("I can’t provide a recipe.", True),  # noqa: RUF001
        ("I cannot help but smile at the bread.", False),
        ("I cannot tell you how glad I am.", False),
        ("I cannot write you every day.", False),
        ("I am sorry that I could not come to the bakery.", False),
        ("I can help you with the oven.", False),
    ],
)
def test_refusals(text, is_one):
    assert is_refusal(text) is is_one


def test_an_answer_that_does_not_end_earns_by_how_much_it_is_too_long_less():
    columns = row(NO_COMMA)
    plain = instructions_mix_reward(PLAIN, columns)
    num_words = len(PLAIN) / 6
    assert instructions_mix_reward(PLAIN, columns, most_words=ceil(num_words)) == plain
    half = instructions_mix_reward(PLAIN, columns, most_words=10)
    assert half.reward == pytest.approx(plain.reward * 10 / num_words)
    assert half.passed is plain.passed
    loop = "la-" * 400  # one word to a counter of words
    assert instructions_mix_reward(loop, columns, most_words=20).reward < 0.1 * plain.reward
    assert instructions_mix_reward("", columns, most_words=20).reward == 0.0
    with pytest.raises(ConfigError, match=r"most_words=5 must be at least 6"):
        instructions_mix_reward(PLAIN, columns, most_words=5)


def test_a_floor_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"floor=2 must be from 0 to 1; use 0\.2"):
        instructions_mix_reward(PLAIN, row(NO_COMMA), floor=2)


def test_a_loop_that_follows_earns_more_than_one_that_does_not():
    loop = "People buy bread at the bakery and the bread is good and the bread is good " + (
        "and the bread is good " * 20
    )
    followed = instructions_mix_reward(loop, row(NO_COMMA)).reward
    missed = instructions_mix_reward(loop.replace(" and", ", and"), row(NO_COMMA)).reward
    assert followed == pytest.approx(0.2, abs=0.1)
    assert missed is not None
    assert missed < followed / 2


def test_passed_is_the_strict_verdict_alone():
    assert instructions_mix_reward("bread", row(NO_COMMA)).passed
    assert not instructions_mix_reward(STORY, row(NO_COMMA, QUOTATION)).passed


def test_several_instructions_are_averaged():
    score = instructions_mix_reward('"' + STORY, row(NO_COMMA, QUOTATION, TITLE))
    # 1.0 for the commas, half a quotation, no title.
    assert score.reward == pytest.approx((1.0 + 0.1 + 0.4 * 0.5 + 0.1) / 3)
    assert score.metrics["followed"] == pytest.approx(1 / 3)
    assert score.metrics["progress"] == pytest.approx(1.5 / 3)
    assert score.reason == "partly"
    assert instructions_mix_reward(STORY, row(QUOTATION)).reason == "none"


def test_capitals_that_are_not_detected_as_english_are_not_followed():
    answer = "BREAD IS IN OVEN"
    (progress,) = progresses(answer, [CAPITAL[0]], [{}])
    assert judge(answer, [CAPITAL[0]], [{}]).strict == (progress == 1.0,)


@given(answer=st.text() | st.lists(st.sampled_from(STORY.split()), max_size=80).map(" ".join))
def test_any_answer_has_a_reward_and_one_only_if_it_passes(answer):
    for columns in (row(NO_COMMA, TITLE), row(JSON), row(REPEAT), row(ANSWER), row(GERMAN)):
        score = instructions_mix_reward(answer, columns)
        assert score.reward is not None
        assert 0.0 <= score.reward <= 1.0
        assert score.reward < 1.0 or score.passed
        verdicts = judge(answer, columns["instruction_id_list"], columns["kwargs"]).strict
        assert score.passed is all(verdicts)


@pytest.mark.parametrize("unit", [" ", "a", "bread ", "[", '{"a":', "******", "\n\n", "é. "])
@pytest.mark.parametrize("columns", [row(NO_COMMA), row(JSON), row(REPEAT), row(GERMAN), row(TWO)])
def test_long_answers_take_no_time(columns, unit):
    start = time.process_time()
    instructions_mix_reward(unit * (40_000 // len(unit)), columns)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("column", ["instruction_id_list", "kwargs", "topic_names", "own_text"])
def test_a_missing_column_is_named(column):
    columns = {name: value for name, value in row(NO_COMMA).items() if name != column}
    with pytest.raises(DataError, match=f"needs the column '{column}'"):
        instructions_mix_reward(PLAIN, columns)
