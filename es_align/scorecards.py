"""What the field reports of responses to GSM8K and IFEval: a row for each, figures over all.

`es-align eval` and `es-align score` both end here, so a model and a file of its responses have the
same figures. No model, no torch.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from es_align.errors import ConfigError, DataError
from es_align.intervals import wilson_interval
from es_align.tasks.base import did_you_mean
from es_align.tasks.gsm8k import Problem, load_problems
from es_align.tasks.ifeval import IfevalRow, load_ifeval
from rewards.base import JsonValue
from rewards.gsm8k import gsm8k_reward
from rewards.ifeval.verdicts import Verdicts, accuracies, judge

VerdictRow: TypeAlias = dict[str, JsonValue]


class Scorecard(Protocol):
    """The prompts of a benchmark and how a response to one of them is judged."""

    @property
    def key_name(self) -> str:
        """What a response's row calls its prompt."""
        ...

    @property
    def independent(self) -> Sequence[str]:
        """The figures that count each response once."""
        ...

    @property
    def keys(self) -> Sequence[int]:
        """Every prompt's key, in order."""
        ...

    def verdicts(self, key: int, response: str) -> VerdictRow:
        """The verdicts on a response to the prompt of that key; `key_name` comes first."""
        ...

    def figures(self, rows: Sequence[Mapping[str, JsonValue]]) -> dict[str, float]:
        """The accuracies over one row or more, 0 to 1, under the names the rows have."""
        ...


class Gsm8kScorecard:
    """GSM8K: strict and flexible, as lm-evaluation-harness's two filters."""

    key_name: str = "index"
    independent: Sequence[str] = ("strict", "flexible")

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems

    @property
    def keys(self) -> Sequence[int]:
        """Rows of test.jsonl, from 0."""
        return range(len(self._problems))

    def verdicts(self, key: int, response: str) -> VerdictRow:
        """`index`, `strict`, `flexible`, `reason` (docs/rewards.md)."""
        score = gsm8k_reward(response, {"answer": self._problems[key].target})
        verdicts = {name: score.metrics[name] == 1.0 for name in self.independent}
        return {"index": key, **verdicts, "reason": score.reason}

    def figures(self, rows: Sequence[Mapping[str, JsonValue]]) -> dict[str, float]:
        """`strict` and `flexible`."""
        return {
            name: sum(row[name] is True for row in rows) / len(rows) for name in self.independent
        }


class IfevalScorecard:
    """IFEval: strict and loose, of prompts and of their instructions."""

    key_name: str = "key"
    independent: Sequence[str] = ("prompt_strict", "prompt_loose")

    def __init__(self, rows: Sequence[IfevalRow]) -> None:
        self._rows = {row.key: row for row in rows}

    @property
    def keys(self) -> Sequence[int]:
        """The data set's own."""
        return tuple(self._rows)

    def verdicts(self, key: int, response: str) -> VerdictRow:
        """`key`, `prompt_strict`, `prompt_loose`, and a list each, in the prompt's order:
        `instructions_strict`, `instructions_loose`.
        """
        row = self._rows[key]
        found = judge(response, row.instruction_ids, row.kwargs)
        return {
            "key": key,
            "prompt_strict": all(found.strict),
            "prompt_loose": all(found.loose),
            "instructions_strict": list(found.strict),
            "instructions_loose": list(found.loose),
        }

    def figures(self, rows: Sequence[Mapping[str, JsonValue]]) -> dict[str, float]:
        """The four figures; of instructions those followed over all there are."""
        found = accuracies(
            Verdicts(_truths(row["instructions_strict"]), _truths(row["instructions_loose"]))
            for row in rows
        )
        return {
            "prompt_strict": found.prompt_strict,
            "prompt_loose": found.prompt_loose,
            "instructions_strict": found.instruction_strict,
            "instructions_loose": found.instruction_loose,
        }


SCORECARDS: Mapping[str, Callable[[str | None], Scorecard]] = {
    "gsm8k": lambda path: Gsm8kScorecard(load_problems(path, "heldout")),
    "ifeval": lambda path: IfevalScorecard(load_ifeval(path)),
}


def load_scorecard(task: str, path: str | None) -> Scorecard:
    """The benchmark from a file or folder, None the hub; ConfigError for an unknown task, DataError
    for its data.
    """
    if task not in SCORECARDS:
        raise ConfigError(
            f"task={task!r} has no responses to score.{did_you_mean(task, SCORECARDS)}"
        )
    scorecard = SCORECARDS[task](path)
    if not scorecard.keys:
        raise DataError(f"{path or task} has no rows; name the task's data")
    return scorecard


def figure_intervals(
    scorecard: Scorecard, figures: Mapping[str, float], num_responses: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals (Wilson) of the figures whose counts are independent.

    Instructions of one prompt are not, so theirs would be too narrow and are left out.
    """
    return {name: wilson_interval(figures[name], num_responses) for name in scorecard.independent}


def counted_reasons(rows: Sequence[Mapping[str, JsonValue]]) -> dict[str, int]:
    """How often each reason code occurs, where rows have one."""
    return dict(Counter(str(row["reason"]) for row in rows if "reason" in row))


def _truths(values: JsonValue) -> tuple[bool, ...]:
    assert isinstance(values, list)
    return tuple(value is True for value in values)
