"""GSM8K's verdicts against those of an installed lm-evaluation-harness 0.4.13, one by one.

The harness brings libraries that es-align does not need, so this runs in an environment of its own:

    python -m venv HARNESS && HARNESS/bin/pip install lm-eval==0.4.13 pytest pytest-timeout
    GSM8K_TEST=FOLDER/test.jsonl HARNESS/bin/python -m pytest --noconftest \\
        tests/rewards/test_gsm8k_harness.py

FOLDER is the one `task.path` names; without it the problems are made up. GSM8K_RESPONSES may name
responses to them, as `es-align eval --details` writes them: {"index", "response"} a line.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from rewards.gsm8k import extract, gsm8k_reward, normalise

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval==0.4.13 is not installed here")
VERSION = "0.4.13"
NUM_PROBLEMS = 1319  # of the test split
NUM_MUTATED = 2000

ENDINGS = (
    "#### {n}",
    "#### ${n}",
    "#### {n}.00",
    "#### {n}.",
    "#### {n} dollars",
    "####{n}",
    "#### **{n}**",
    "#### {n}/2",
    "#### -{n}",
    "#### \u2212{n}",
    "The answer is {n}",
    "The answer is **{n}**.",
    "The answer is \\boxed{{{n}}}",
    "It is ${n}, of course.",
    "{n} is the answer",
    "#### {n}\n#### {m}",
    "#### {m}\n#### {n}",
    "#### {m}\nNo, it is {n}...",
    "#### {grouped}",
    "It is {grouped}!",
    "no number at all",
    "",
    "#### ",
    "#### .,",
    "#### {n}\u00a0kg",
)
SPLINTERS = (
    "#",
    "####",
    "#### ",
    " ",
    "\n",
    "-",
    "\u2212",
    "$",
    ".",
    ",",
    "0",
    "7",
    "**",
    "\u0663",
)


class Case(NamedTuple):
    """One response, and its problem's answer as the data set has it."""

    completion: str
    answer: str


@pytest.fixture(scope="module")
def harness():
    """The harness's task file, and its own functions for filters and metric."""
    if metadata.version("lm_eval") != VERSION:
        pytest.skip(f"lm-eval {metadata.version('lm_eval')} is installed, {VERSION} is wanted")
    yaml = pytest.importorskip("yaml")
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters import build_filter_ensemble

    file = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    task = yaml.safe_load(file.read_text(encoding="utf-8"))
    metric = dict(task["metric_list"][0])
    assert metric.pop("metric") == "exact_match" and task["metadata"]["version"] == 3.0
    options = {k: v for k, v in metric.items() if k not in ("aggregation", "higher_is_better")}
    ensembles = {}
    for entry in task["filter_list"]:
        steps = [dict(step) for step in entry["filter"]]
        parts = [(step.pop("function"), step or None) for step in steps]
        ensembles[entry["name"]] = build_filter_ensemble(entry["name"], parts)

    def verdict(name: str, case: Case) -> bool:
        found: object = [[case.completion]]
        for step in ensembles[name].filters:
            found = step().apply(found, [{}])
        (prediction,) = list(found)
        scored = exact_match_hf_evaluate(
            predictions=[prediction], references=[case.answer], **options
        )
        return bool(scored["exact_match"])

    return verdict


def answers() -> list[str]:
    file = os.environ.get("GSM8K_TEST")
    if file is not None:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["answer"] for line in lines]
    numbers = random.Random(0)
    return [f"Add.\n#### {numbers.choice([7, 180, 2500, -3, 1.5])}" for _ in range(NUM_PROBLEMS)]


def synthetic(answers: list[str]) -> list[Case]:
    """One response to every problem: its solution with another ending, all endings in turn."""
    cases = []
    for index, answer in enumerate(answers):
        reasoning, _, number = answer.rpartition("#### ")
        plain = number.replace(",", "")
        ending = ENDINGS[index % len(ENDINGS)].format(
            n=plain, m=index, grouped=f"{float(plain):,.0f}"
        )
        text = ending if index % 3 == 0 else reasoning + ending
        cases.append(Case(text, answer))
    return cases


def mutated(cases: list[Case], num: int) -> list[Case]:
    """Responses with up to eight random cuts and insertions near their end."""
    chance = random.Random(1)
    made = []
    for _ in range(num):
        case = chance.choice(cases)
        text = case.completion
        for _ in range(chance.randint(1, 8)):
            place = max(0, len(text) - chance.randint(0, 12))
            rest = text[place + chance.randint(0, 2) :]
            text = text[:place] + chance.choice(SPLINTERS) + rest
        made.append(Case(text, case.answer))
    return made


def compare(harness: Callable[[str, Case], bool], cases: list[Case]) -> Counter[str]:
    """Assert the same verdicts for every case; how many pass, by filter."""
    differing, passed = [], Counter(strict=0, flexible=0)
    for case in cases:
        # The task's own way: the target is cut from the solution when the data are read.
        score = gsm8k_reward(case.completion, {"answer": normalise(case.answer.strip())})
        expected = {
            "strict": harness("strict-match", case),
            "flexible": harness("flexible-extract", case),
        }
        if score.metrics != {name: float(value) for name, value in expected.items()}:
            differing.append((case.completion[-60:], case.answer[-20:], score, expected))
        passed.update(name for name, value in expected.items() if value)
    print(f"{len(cases)} responses, {len(differing)} differ; the harness passes {dict(passed)}")
    assert not differing, differing[:5]
    return passed


@pytest.mark.timeout(120)
def test_every_verdict_is_the_harnesss(harness) -> None:
    made = synthetic(answers())
    cases = made + mutated(made, NUM_MUTATED)
    assert len(made) >= NUM_PROBLEMS and len(cases) >= NUM_PROBLEMS + NUM_MUTATED
    passed = compare(harness, cases)
    assert 300 < passed["strict"] < passed["flexible"] < len(cases)


@pytest.mark.timeout(120)
def test_given_responses_and_mutated_ones(harness) -> None:
    responses, problems = os.environ.get("GSM8K_RESPONSES"), answers()
    if responses is None:
        pytest.skip("GSM8K_RESPONSES is not set to a file of responses")
    rows = [json.loads(line) for line in Path(responses).read_text(encoding="utf-8").splitlines()]
    given = [Case(row["response"], problems[row["index"]]) for row in rows]
    compare(harness, given)
    compare(harness, mutated(given, NUM_MUTATED))


def test_the_solutions_themselves_pass(harness) -> None:
    cases = [Case(answer, answer) for answer in answers()]
    assert all(harness("strict-match", case) for case in cases[:50])
    assert all(
        gsm8k_reward(case.completion, {"answer": normalise(case.answer)}).passed for case in cases
    )
    assert all(extract(case.completion).strict is not None for case in cases)
