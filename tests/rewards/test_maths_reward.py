"""Answers compared as mathematics."""

import pytest

from kernels.errors import DataError
from rewards.equations import is_name, split_outside, unnamed_sides
from rewards.maths import last_box, math_reward


@pytest.mark.parametrize(
    ("completion", "answer", "reward", "reason"),
    [
        ("So \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", 1.0, "ok"),
        ("So \\boxed{0.5}.", "\\frac{1}{2}", 1.0, "ok"),
        ("\\boxed{50/100}", "$\\frac12$", 1.0, "ok"),
        ("\\boxed{3}", "Add, and get \\boxed{1+2}.", 1.0, "ok"),
        ("\\boxed{1} or rather \\boxed{2}", "2", 1.0, "ok"),
        ("\\boxed{2} or rather \\boxed{1}", "2", 0.1, "wrong"),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", 1.0, "ok"),
        ("\\boxed{\\{2, 1\\}}", "\\{1,2\\}", 1.0, "ok"),
        ("\\boxed{[1, 2)}", "[1,2)", 1.0, "ok"),
        ("\\boxed{(1, 2)}", "[1,2)", 0.1, "wrong"),
        ("\\boxed{1,000}", "1000", 1.0, "ok"),
        ("\\boxed{\\text{Evelyn}}", "\\text{Evelyn}", 1.0, "ok"),
        ("It is $x = \\frac{3}{6}$.", "1/2", 0.5, "unboxed"),
        ("\\boxed{17=18}", "18", 0.1, "wrong"),
        ("\\boxed{2x=18}", "18", 0.1, "wrong"),
        ("\\boxed{15+3=18}", "18", 1.0, "ok"),
        ("\\boxed{x=18}", "18", 1.0, "ok"),
        ("\\boxed{x = y = 18}", "18", 1.0, "ok"),
        ("\\boxed{f(2)=18}", "18", 1.0, "ok"),
        ("\\boxed{\\text{Area}=18}", "18", 1.0, "ok"),
        ("\\boxed{x=18}", "x=18", 1.0, "ok"),
        ("\\boxed{x+y=2}", "x+y=2", 1.0, "ok"),
        ("\\boxed{x=1 \\text{ or } x=2}", "1,2", 1.0, "ok"),
        ("It is $17=18$", "18", 0.0, "wrong"),
        ("It is 7", "7", 0.5, "unboxed"),
        ("It is 8", "7", 0.0, "wrong"),
        ("\\boxed{}", "7", 0.0, "unreadable"),
        ("no idea", "7", 0.0, "no_answer"),
        ("", "7", 0.0, "empty"),
    ],
)
def test_verdicts(completion, answer, reward, reason):
    score = math_reward(completion, {"answer": answer})
    assert (score.reward, score.reason) == (reward, reason)
    assert score.passed is (reason == "ok")
    assert score.metrics["flexible"] == (reason in ("ok", "unboxed"))


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{a{b}c} x", "a{b}c"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{}", ""),
        ("\\boxed", None),
        ("", None),
        ("\\boxed{" * 3, None),
    ],
)
def test_the_last_box_that_is_closed(text, box):
    assert last_box(text) == box


@pytest.mark.parametrize("row", [{}, {"answer": 7}, {"answer": "\\boxed{}"}])
def test_a_wrong_row_is_named(row):
    with pytest.raises(DataError, match="answer"):
        math_reward("7", row)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("18", []),
        ("x=18", []),
        ("m\\angle ABC = 18^\\circ", []),
        ("a_{n+1}=18", []),
        ("P(X=1)=0.5", []),
        ("(x, y)=(1,2)", []),
        ("f'(x)=18", []),
        ("x\\le 18", []),
        ("x:=18", []),
        ("17=18", ["17", "18"]),
        ("x=17=18", ["17", "18"]),
        ("2x=18", ["2x", "18"]),
        ("\\pi=3", ["\\pi", "3"]),
        ("\\sqrt{9}=3", ["\\sqrt{9}", "3"]),
    ],
)
def test_sides_of_an_equation_that_are_no_names(text, sides):
    assert unnamed_sides(text) == sides


def test_brackets_keep_marks_together():
    assert split_outside("f(a,b),c", ",") == ["f(a,b)", "c"]
    assert is_name("f(a,b)")
    assert not is_name("")
