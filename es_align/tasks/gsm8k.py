"""The `gsm8k` task: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168).

Rows come from `task.path` (train.jsonl and test.jsonl, one {"question", "answer"} a line, the
answer ending `#### n`) or from the Hugging Face hub. Training prompts are drawn from the train
split and held-out prompts from the test split, by `task.seed`. Prompts ask for `#### n`, after
`task.num_fewshot` solved problems of the train split as turns of the chat (none by default).
Column `index` is the row of the split, from 0.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from es_align.config import TaskConfig
from es_align.tasks.base import PromptTask, make_messages, shuffled
from es_align.tasks.rows import file_rows, hub_rows
from kernels.errors import DataError
from kernels.noise import Purpose
from rewards.base import JsonValue
from rewards.gsm8k import normalise
from workers.protocol import Prompt

Split = Literal["train", "heldout"]

HUB_NAME = "openai/gsm8k"
FILES: dict[Split, str] = {"train": "train.jsonl", "heldout": "test.jsonl"}
HUB_SPLITS: dict[Split, str] = {"train": "train", "heldout": "test"}
SOURCE = f"a folder with {' and '.join(FILES.values())}"
REQUEST = (
    "{question}\n\nSolve this step by step. End with a line of the form `#### n`, "
    "where n is the number that is asked for."
)
_TARGET = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


class Problem(NamedTuple):
    """One problem and the number that answers it, as the reward compares it."""

    question: str
    target: str
    solution: str  # with its steps, as the data set has it


def make_gsm8k(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Build the task; DataError for missing, malformed, too few or overlapping rows."""
    train, heldout = load_problems(config.path, "train"), load_problems(config.path, "heldout")
    _refuse_shared(train, heldout)
    shots = _shots(train, config)
    return PromptTask(
        "gsm8k",
        "gsm8k",
        train=_draw("train", train, config.num_train, config, shots),
        heldout=_draw("heldout", heldout, config.num_heldout, config, shots),
        seed=seed,
        prompts_per_generation=prompts_per_generation,
    )


def heldout_problems(config: TaskConfig) -> list[Prompt]:
    """The held-out prompts alone, of a folder or, without shots, of one file; raises DataError as
    `make_gsm8k`.
    """
    problems = load_problems(config.path, "heldout")
    shots = []
    if config.num_fewshot:
        train = load_problems(config.path, "train")
        _refuse_shared(train, problems)
        shots = _shots(train, config)
    return _draw("heldout", problems, config.num_heldout, config, shots)


def sft_prompts(config: TaskConfig) -> list[Prompt]:
    """The `num_sft` problems kept for a warm start, whose solutions are in column `reference`;
    DataError if there are none, or not enough beside the training pool.
    """
    if config.num_sft == 0:
        raise DataError(
            "task.num_sft=0 keeps no problem for a warm start; set it, to 1495 as ESSA has it"
        )
    problems = load_problems(config.path, "train")
    if len(problems) < config.num_sft:
        raise DataError(
            f"task.num_sft={config.num_sft}, but {FILES['train']} has {len(problems)} problem(s); "
            "lower it"
        )
    first = config.model_copy(update={"num_sft": 0})
    drawn = _draw("train", problems, config.num_sft, first, _shots(problems, config))
    return [replace(prompt, prompt_id=f"sft/{index}") for index, prompt in enumerate(drawn)]


def _refuse_shared(train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    seen = {problem.question for problem in train}
    shared = [problem.question for problem in heldout if problem.question in seen]
    if shared:
        raise DataError(
            f"gsm8k: {len(shared)} test question(s) stand in the train split too, such as "
            f"{shared[0][:60]!r}; remove them from one of the two"
        )


def load_problems(path: str | None, split: Split) -> list[Problem]:
    """All problems of a split, in order; `path` is a folder, for `heldout` a file too, None the
    hub. Raises DataError.
    """
    if path is None:
        rows = hub_rows(HUB_NAME, "main", HUB_SPLITS[split], SOURCE)
        return [parse_problem(row.value, row.where) for row in rows]
    is_file = split == "heldout" and Path(path).is_file()
    return read_problems(Path(path) if is_file else Path(path) / FILES[split])


def read_problems(file: Path) -> list[Problem]:
    """The problems of one JSONL file; DataError names the file and line of a bad row."""
    if not file.is_file():
        raise DataError(
            f"{file} does not exist; set task.path to {SOURCE}, or leave it out to use {HUB_NAME} "
            "from the hub"
        )
    return [parse_problem(row.value, row.where) for row in file_rows(file)]


def parse_problem(row: JsonValue, where: str) -> Problem:
    """Check one row; DataError says where it is and what is wrong with it."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object with question and answer, found {row!r:.60}")
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: question={question!r:.60} must be a text; correct the row")
    if not isinstance(answer, str):
        raise DataError(f"{where}: answer={answer!r:.60} must be a text; correct the row")
    target = normalise(answer.strip())
    if not _TARGET.fullmatch(target):
        raise DataError(
            f"{where}: answer ends in {target[-60:]!r}, not in a number after '#### '; "
            f"correct the row"
        )
    return Problem(question.strip(), target, answer.strip())


def _shots(train: Sequence[Problem], config: TaskConfig) -> list[tuple[str, str]]:
    """Questions and solutions of `num_fewshot` problems that are neither in the training pool nor
    kept for a warm start.
    """
    free = _order(len(train), "train", config)[config.num_sft + config.num_train :]
    if len(free) < config.num_fewshot:
        raise DataError(
            f"task.num_fewshot={config.num_fewshot}, but {FILES['train']} has {len(free)} "
            f"problem(s) beside task.num_train={config.num_train} and "
            f"task.num_sft={config.num_sft}; lower one of them"
        )
    chosen = [train[position] for position in free[: config.num_fewshot]]
    return [(REQUEST.format(question=shot.question), shot.solution) for shot in chosen]


def _order(num_problems: int, split: Split, config: TaskConfig) -> list[int]:
    return shuffled(num_problems, config.seed, Purpose.DATA, split == "heldout").tolist()


def _draw(
    split: Split,
    problems: Sequence[Problem],
    num_prompts: int,
    config: TaskConfig,
    shots: Sequence[tuple[str, str]],
) -> list[Prompt]:
    """So many problems of a split as prompts, of training ones those after the warm start's; 0:
    all.
    """
    kept = config.num_sft if split == "train" else 0
    if len(problems) < kept + max(num_prompts, 1):
        beside = f" and task.num_sft={kept}" if kept else ""
        raise DataError(
            f"task.num_{split}={num_prompts}{beside}, but {FILES[split]} has {len(problems)} "
            f"problem(s); set task.num_{split} to {max(len(problems) - kept, 0)} or fewer"
            if problems
            else f"{FILES[split]} has no problems and task.num_{split}={num_prompts}; add rows"
        )
    chosen = _order(len(problems), split, config)[kept:][: num_prompts if num_prompts else None]
    return [
        Prompt(
            prompt_id=f"{split}/{index}",
            messages=make_messages(
                REQUEST.format(question=problems[position].question), config.system_prompt, shots
            ),
            columns={
                "answer": problems[position].target,
                "reference": problems[position].solution,
                "index": position,
            },
        )
        for index, position in enumerate(chosen)
    ]
