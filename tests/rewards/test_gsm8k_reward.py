"""GSM8K's two filters, literally, and against lm-evaluation-harness's own definition."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import DataError
from rewards.gsm8k import extract, gsm8k_reward, judge, normalise

HALF, FORMAT = 0.5, 0.1


@pytest.mark.parametrize(
    ("completion", "answer", "strict", "flexible", "reason"),
    [
        ("So it is 18.\n#### 18", "18", True, True, "ok"),
        ("#### $18", "18", False, True, "unmarked"),
        ("It costs $18", "18", False, True, "unmarked"),
        ("#### 18.00", "18", False, False, "wrong"),
        ("#### 1,000", "1000", True, True, "ok"),
        ("#### 1000", "1,000", True, True, "ok"),
        ("#### -3", "-3", True, True, "ok"),
        ("#### \u22123", "-3", False, False, "wrong"),
        ("#### 3/4", "3", True, False, "ok"),
        ("It is 3/4", "4", False, True, "unmarked"),
        ("#### 18 eggs", "18", True, True, "ok"),
        ("#### 5kg", "5", True, True, "ok"),
        ("#### 17\n#### 18", "18", False, True, "wrong"),
        ("#### 18\n#### 17", "18", True, False, "ok"),
        ("18 is the answer", "18", False, True, "unmarked"),
        ("The answer is **18**", "18", False, True, "unmarked"),
        ("#### **18**", "18", False, True, "unmarked"),
        ("#### 18.", "18", True, True, "ok"),
        ("It is 18.", "18", False, True, "unmarked"),
        ("It is 18...", "18", False, False, "wrong"),
        ("####18", "18", False, True, "unmarked"),
        ("#### 18", "He has 9 * 2 = <<9*2=18>>18\n#### 18", True, True, "ok"),
        ("I do not know", "18", False, False, "no_answer"),
        ("eighteen", "18", False, False, "no_answer"),
        ("", "18", False, False, "empty"),
        (" \n", "18", False, False, "empty"),
        ("18 and then ...", "18", False, False, "wrong"),
        ("#### ٣", "3", False, False, "no_answer"),
    ],
)
def test_verdicts(completion, answer, strict, flexible, reason):
    score = gsm8k_reward(completion, {"answer": answer})
    assert score.metrics == {"strict": float(strict), "flexible": float(flexible)}
    assert score.passed is strict
    assert score.reason == reason
    has_marker = re.search(r"#### -?[0-9.,]+", completion) is not None
    assert score.reward == (1.0 if strict else HALF if flexible else FORMAT if has_marker else 0.0)


@pytest.mark.parametrize(
    ("completion", "strict", "flexible"),
    [
        ("#### 18", "ok", "ok"),
        ("#### 17\n#### 18", "wrong", "ok"),
        ("#### 18\n#### 17", "ok", "wrong"),
        ("It is 18", "no_marker", "ok"),
        ("It is 18.00", "no_marker", "wrong"),
        ("eighteen", "no_marker", "no_number"),
        ("####", "no_marker", "no_number"),
        (" \n", "empty", "empty"),
    ],
)
def test_each_verdict_has_its_reason(completion, strict, flexible):
    verdicts = judge(completion, extract(completion), "18")
    assert (verdicts.strict.reason, verdicts.flexible.reason) == (strict, flexible)
    assert verdicts.strict.passed is (strict == "ok")
    assert verdicts.flexible.passed is (flexible == "ok")


PIECES = ["####", " ", "\n", "-", "$", "18", "1,0", "0.5", ".", ",", "x", "=", "**", "7", "\u2212"]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES), max_size=15).map("".join)


def harness_filter(pattern, group, completion):
    """RegexFilter of lm-evaluation-harness 0.4.13."""
    found = re.findall(pattern, completion)
    if not found:
        return "[invalid]"
    match = found[group]
    if isinstance(match, tuple):
        match = next(part for part in match if part)
    return match.strip()


def harness_normalise(text):
    for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(pattern, "", text)
    return text.lower()


@given(completion=TEXTS)
def test_extraction_is_the_harnesss(completion):
    strict = harness_filter(r"#### (\-?[0-9\.\,]+)", 0, completion)
    flexible = harness_filter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1, completion)
    found = extract(completion)
    assert (found.strict if found.strict is not None else "[invalid]") == strict
    assert (found.flexible if found.flexible is not None else "[invalid]") == flexible


@given(number=st.text("#-$0123456789., "))
def test_normalisation_is_the_harnesss(number):
    assert normalise(number) == harness_normalise(number)


def test_a_missing_answer_is_named():
    with pytest.raises(DataError, match="needs the column 'answer'"):
        gsm8k_reward("#### 18", {})
