"""The instructions reward: what passes, what does not, and that no cheat beats a plain answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import DataError
from rewards.base import score_batch
from rewards.instructions import PLAIN_REWARD, instructions_reward
from rewards.readability import readability
from rewards.topic import num_topic_words

OWN_TEXT = "What do people do at a bakery? Use one or two short sentences. Use no capital letters."
ROW = {
    "instruction_id": "change_case:english_lowercase",
    "kwargs": {},
    "topic_names": ["bake", "baking"],
    "topic_words": ["bread", "flour", "oven", "dough", "cake", "pie"],
    "own_text": OWN_TEXT,
}
QUOTED = ROW | {"instruction_id": "startend:quotation"}
BULLETS = ROW | {
    "instruction_id": "detectable_format:number_bullet_lists",
    "kwargs": {"num_bullets": 2},
}
PLAIN = "At a bakery, people buy fresh bread and cakes. Most of them come early in the morning."
GOOD = PLAIN.lower()


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (ROW, GOOD),
        (ROW, "they knead dough and put the bread into a hot oven."),
        (ROW, "the bakery isn't far, so we walk there to buy warm rolls."),
        (QUOTED, f'"{PLAIN}"'),
        (BULLETS, "* People buy fresh bread at the counter.\n* They enjoy the smell of cakes."),
    ],
)
def test_good_answers_pass(row, answer):
    score = instructions_reward(answer, row)
    assert score.passed
    assert score.reward == 1.0
    assert score.reason == "ok"
    assert score.metrics == {"constraint": 1.0, "topic": 1.0, "readable": 1.0, "progress": 1.0}


CHEATS = [
    ("", "empty"),
    (" \n", "empty"),
    ("breadcrumbs", "too_short"),
    ("bread oven", "too_short"),
    ("bakery bakery bakery", "too_short"),
    ("bakery bakery bakery bakery bakery bakery bakery", "degenerate"),
    ("bread flour oven dough cake bakery", "degenerate"),
    ("bread, flour, and oven and dough and the cake", "degenerate"),
    ("the bread and the oven and the flour and the dough of a bakery", "degenerate"),
    ("a bakery a bakery a bakery a bakery is a bakery", "degenerate"),
    ("the bakery is the bakery is the bakery is the bakery", "degenerate"),
    ("brd flr vn dgh bkry crst wth th brd nd flr", "degenerate"),
    ("breaaad in the ooooven iiis bakeddd with flouuur", "degenerate"),
    ("the bread 1827364 in oven 9918273 and 1283746 with flour 182736 is", "degenerate"),
    ("что делают люди в пекарне? они пекут bread и cake", "degenerate"),
    ("what do people do at a bakery?", "echo"),
    (OWN_TEXT.lower(), "echo"),
    ("use one or two short sentences. use no capital letters.", "echo"),
    ("what do people do at a bakery? use one or two short sentences, bread.", "echo"),
    ("i like to go to the park when it is sunny outside.", "off_topic"),
    ("the weather is nice and the bread is far away.", "off_topic"),
    ("i'm here to help with any bread or oven question you have.", "off_topic"),
    ("as an ai assistant i bake bread in an oven with flour.", "off_topic"),
    ("this sentence about a bakery has only lowercase letters in it.", "off_topic"),
    ("a bakery is a bakery in which we all are at.", "off_topic"),
]


@pytest.mark.parametrize(("answer", "reason"), CHEATS)
@pytest.mark.parametrize("shape", ["{}", '"{}"', "* {}\n* {}"])
def test_cheats_earn_less_than_a_plain_answer(answer, reason, shape):
    row = {"{}": ROW, '"{}"': QUOTED}.get(shape, BULLETS)
    score = instructions_reward(shape.format(answer, answer), row)
    assert not score.passed
    assert score.reward is not None
    assert score.reward < PLAIN_REWARD
    if shape == "{}":
        assert score.reason == reason


def test_a_plain_answer_earns_its_floor_and_the_progress():
    score = instructions_reward(PLAIN, QUOTED)
    assert (score.reward, score.passed, score.reason) == (PLAIN_REWARD, False, "constraint")
    half = instructions_reward('"' + PLAIN, QUOTED)
    assert half.reward == pytest.approx(0.1 + 0.4 * 0.5)


def test_the_way_to_a_plain_answer_has_a_slope():
    answers = [
        "bread",
        "the bread is",
        "the bread in the oven",
        "the warm bread in the oven smells",
    ]
    rewards = [instructions_reward(answer, QUOTED).reward or 0.0 for answer in answers]
    assert rewards == sorted(rewards)
    assert rewards[-1] > rewards[0]


@given(answer=st.text() | st.lists(st.sampled_from(GOOD.split())).map(" ".join))
def test_reward_is_one_exactly_for_the_answers_that_pass(answer):
    score = instructions_reward(answer, ROW)
    assert score.reward is not None
    assert 0.0 <= score.reward <= 1.0
    assert (score.reward == 1.0) is score.passed
    assert (score.reason == "ok") is score.passed
    is_plain = score.metrics["topic"] == score.metrics["readable"] == 1.0
    assert (score.reward >= PLAIN_REWARD) is is_plain


def test_short_stems_match_whole_words_only():
    assert num_topic_words("A pie and two PIES.", ("pie",)) == 1
    assert num_topic_words("He pieced it together.", ("pie",)) == 0
    assert num_topic_words("breadcrumbs, ovens", ("bread", "oven", "dough")) == 2
    assert num_topic_words("homebread", ("bread",)) == 0


def test_an_ordinary_repeated_word_across_sentences_is_no_stutter():
    text = "Bread takes care in making it. It is baked in a very hot oven."
    assert readability(text, OWN_TEXT).variety == 1.0
    assert readability("We bake bread, bread and more in the oven.", OWN_TEXT).variety == 0.5


@pytest.mark.parametrize("column", ["instruction_id", "kwargs", "topic_names", "own_text"])
def test_a_missing_column_is_named(column):
    row = {name: value for name, value in ROW.items() if name != column}
    with pytest.raises(DataError, match=f"needs the column '{column}'"):
        instructions_reward(PLAIN, row)


def test_a_bad_row_is_a_reason_not_a_zero():
    scores = score_batch(instructions_reward, [GOOD, GOOD], [ROW, ROW | {"kwargs": 3}])
    assert [score.reward for score in scores] == [1.0, None]
    assert scores[1].reason == "error:DataError"
