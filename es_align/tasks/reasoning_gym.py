"""The `reasoning_gym` task: any of its procedural data sets (arXiv 2505.24760), no download.

Both splits are generated from seeds drawn far apart; questions that occur twice are dropped, and a
training question is never a held-out one. Rows are kept as plain JSON so that a worker on another
machine scores the same thing.
"""

import json
from collections.abc import Collection
from typing import Literal

from es_align.config import TaskConfig
from es_align.tasks.base import PromptTask, did_you_mean, make_messages
from kernels.errors import ConfigError, DataError
from kernels.noise import Purpose, philox
from rewards.base import JsonValue
from rewards.procedural import Entry, get_scorer
from workers.protocol import Prompt

Split = Literal["train", "heldout"]

REQUEST = "{question}\n\nEnd with the final answer alone on a line that begins with ####"
# reasoning_gym seeds row i with seed + i, so rows are asked for in one stretch; this many times the
# wanted number is tried before a data set counts as too small.
MAX_OVERSAMPLING = 8
NEEDS_PARTS = frozenset({"composite"})


def make_reasoning_gym(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Build the task; ConfigError for an unknown data set, DataError for too few questions."""
    heldout = generate_rows(config.dataset, "heldout", config.num_heldout, config.seed, ())
    questions = {str(row["question"]) for row in heldout}
    train = generate_rows(config.dataset, "train", config.num_train, config.seed, questions)
    return PromptTask(
        "reasoning_gym",
        "reasoning_gym",
        train=_prompts("train", train, config),
        heldout=_prompts("heldout", heldout, config),
        seed=seed,
        prompts_per_generation=prompts_per_generation,
    )


def generate_rows(
    dataset: str, split: Split, num_rows: int, seed: int, exclude: Collection[str]
) -> list[Entry]:
    """`num_rows` rows with different questions, none of them in `exclude`."""
    # Imported here: it takes seconds and no other task needs it.
    from reasoning_gym.factory import DATASETS, create_dataset

    if dataset not in DATASETS or dataset in NEEDS_PARTS:
        names = DATASETS.keys() - NEEDS_PARTS
        raise ConfigError(
            f"task.dataset: unknown reasoning_gym data set {dataset!r}."
            f"{did_you_mean(dataset, names)}"
        )
    first_seed = _row_seed(seed, split)
    rows: dict[str, Entry] = {}
    source = create_dataset(dataset, size=num_rows * MAX_OVERSAMPLING, seed=first_seed)
    for index in range(num_rows * MAX_OVERSAMPLING):
        row = _as_json(dataset, source[index])
        question = str(row["question"])
        if question not in rows and question not in exclude:
            rows[question] = row
        if len(rows) == num_rows:
            return list(rows.values())
    raise DataError(
        f"reasoning_gym's {dataset} gave only {len(rows)} different {split} questions in "
        f"{num_rows * MAX_OVERSAMPLING} rows; set task.num_{split} to {len(rows)} or fewer"
    )


def _row_seed(seed: int, split: Split) -> int:
    """A 31-bit seed for reasoning_gym's own generator, far from the other split's."""
    words = philox(seed, Purpose.DATA, split == "heldout").bit_generator.random_raw(1)
    return int(words[0]) >> 33


def _as_json(dataset: str, source_row: dict[str, JsonValue]) -> Entry:
    row: Entry = json.loads(json.dumps(source_row, default=str))
    answer = row.get("answer")
    if not isinstance(answer, str) or get_scorer(dataset)(answer, row) < 1.0:
        raise ConfigError(
            f"task.dataset={dataset}: its scorer does not accept the row's own answer "
            f"{answer!r:.60} once the row is plain JSON, so it cannot be used; choose another one"
        )
    return row


def _prompts(split: Split, rows: list[Entry], config: TaskConfig) -> list[Prompt]:
    return [
        Prompt(
            prompt_id=f"{split}/{index}",
            messages=make_messages(
                REQUEST.format(question=str(row["question"]).strip()), config.system_prompt
            ),
            columns={"dataset": config.dataset, "entry": row},
        )
        for index, row in enumerate(rows)
    ]
