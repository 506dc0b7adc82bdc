"""Arithmetic by the project's own parser, and countdown scored with it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import DataError
from rewards.arithmetic import evaluate
from rewards.countdown import countdown_reward

ROW = {"numbers": [3, 5, 8], "target": 64}


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("1 + 2 * 3", 7, (1, 2, 3)),
        ("(1+2)*3", 9, (1, 2, 3)),
        ("10-4-3", 3, (10, 4, 3)),
        ("16/4/2", 2, (16, 4, 2)),
        ("1/3*3", 1, (1, 3, 3)),
        ("1/3", Fraction(1, 3), (1, 3)),
        ("-3+5", 2, (3, 5)),
        ("2*-3", -6, (2, 3)),
        ("--4", 4, (4,)),
        ("6 × 7 − 2 ÷ 1", 40, (6, 7, 2, 1)),  # noqa: RUF001
        ("6 \\times (7 \\div 7)", 6, (6, 7, 7)),
        ("007", 7, (7,)),
    ],
)
def test_values(text, value, numbers):
    assert evaluate(text) == (value, numbers)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "1 +",
        "+ 1",
        "1 2",
        "(1",
        "1)",
        "2**3",
        "2^3",
        "1.5",
        "1,000",
        "9//2",
        "x+1",
        "4/(2-2)",
        "__import__('os')",
        "1;2",
        "٣",
        "9999999999999",
        "1+" * 250 + "1",
        "(" * 100_000,
    ],
)
def test_what_is_no_arithmetic_is_refused(text):
    with pytest.raises(DataError):
        evaluate(text)


def test_depth_is_no_limit_but_length():
    assert evaluate("(" * 190 + "7" + ")" * 190).value == 7
    assert evaluate("-" * 300 + "7").value == 7


@st.composite
def expressions(draw, depth=4):
    """A text and its value, built together."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99))
        return str(number), Fraction(number)
    (left, a), (right, b) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    operator = draw(st.sampled_from("+-*/"))
    if operator == "/" and b == 0:
        operator = "+"
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[operator]
    return f"({left}{operator} {right})", value


@given(made=expressions())
def test_any_expression_has_its_value(made):
    text, value = made
    assert evaluate(text).value == value


@given(text=st.text() | st.text("0123456789+-*/() ", max_size=20))
def test_any_text_is_a_value_or_refused(text):
    try:
        value = evaluate(text).value
    except DataError:
        return
    assert isinstance(value, Fraction)


@pytest.mark.parametrize(
    ("completion", "reward", "reason"),
    [
        ("Try.\n#### (3+5)*8", 1.0, "ok"),
        ("<answer>8*(5+3)</answer>", 1.0, "ok"),
        ("<answer>1</answer> no: <answer> (3 + 5) * 8 = 64 </answer>", 1.0, "ok"),
        ("#### $(3+5)\\times 8 = 64$.", 1.0, "ok"),
        ("(3+5)*8", 0.5, "unmarked"),
        ("Try.\n**(3+5)*8**", 0.5, "unmarked"),
        ("#### 3+5+8", 0.1, "wrong_value"),
        ("3+5+8", 0.0, "wrong_value"),
        ("#### 8*8", 0.1, "wrong_numbers"),
        ("#### 64", 0.1, "wrong_numbers"),
        ("#### (3+5)*8*1", 0.1, "wrong_numbers"),
        ("#### I do not know", 0.0, "not_arithmetic"),
        ("#### eval('64')", 0.0, "not_arithmetic"),
        ("#### 8/(8-5-3)", 0.0, "not_arithmetic"),
        ("<answer>" * 5, 0.0, "not_arithmetic"),
        ("", 0.0, "empty"),
    ],
)
def test_verdicts(completion, reward, reason):
    score = countdown_reward(completion, ROW)
    assert (score.reward, score.reason) == (reward, reason)
    assert score.passed is (reason == "ok")


def test_numbers_may_be_left_over_where_that_is_allowed():
    row = {"numbers": [3, 5, 8], "target": 40}
    assert countdown_reward("#### 5*8", row).reason == "wrong_numbers"
    assert countdown_reward("#### 5*8", row, use_all=False).passed
    assert countdown_reward("#### 5*5+15", row, use_all=False).reason == "wrong_numbers"


def test_rows_of_reasoning_gym_are_read():
    from reasoning_gym.factory import create_dataset

    for entry in create_dataset("countdown", size=20, seed=3):
        row = {"dataset": "countdown", "entry": dict(entry)}
        assert countdown_reward(f"#### {entry['answer']}", row).passed
        assert not countdown_reward(f"#### {entry['answer']} + 1", row).passed


@pytest.mark.parametrize(
    "row", [{}, {"numbers": [1, 2]}, {"numbers": ["1"], "target": 1}, {"numbers": 3, "target": 1}]
)
def test_a_wrong_row_is_named(row):
    with pytest.raises(DataError, match="column"):
        countdown_reward("#### 1", row)
