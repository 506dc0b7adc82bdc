"""How many completions a second a reward scores on one core.

    python benchmarks/reward_speed.py
    python benchmarks/reward_speed.py --data FOLDER   # on GSM8K solutions, FOLDER/test.jsonl

`gsm8k` and `instructions_mix` (on made-up answers to its task's prompts) in this process; `math`,
`regex` and `json_schema` in one child process under a time limit, after its start. Best of
`--repeats`, by the processor time of this process for the first two, by the clock for the others.
"""

import argparse
import functools
import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from es_align.bench.ifeval_responses import IfevalPrompt, make_response
from es_align.config import TaskConfig
from es_align.tasks import make_task
from rewards.base import Columns, JsonValue, Prompted, Reward, Score, score_batch
from rewards.gsm8k import gsm8k_reward, normalise
from rewards.instructions_mix import instructions_mix_reward
from rewards.scoring import Scorer
from rewards.specs import RewardSpec

NUM_GSM8K, NUM_MIXED, NUM_ISOLATED = 20_000, 2_000, 1_000
SENTENCES = range(3, 15)  # of a made-up answer
SCHEMA: Mapping[str, JsonValue] = {"type": "object", "required": ["name"]}


def gsm8k_rows(data: Path | None) -> list[tuple[str, str]]:
    """Completions of about 300 characters and their answers."""
    if data is not None:
        lines = (data / "test.jsonl").read_text(encoding="utf-8").splitlines()
        solutions = [json.loads(line)["answer"] for line in lines]
    else:
        numbers = random.Random(0)
        solutions = [
            "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs a day, and earns "
            f"9 * {n} = $<<9*{n}={9 * n}>>{9 * n} with them. " * 2 + f"\n#### {9 * n:,}"
            for n in (numbers.randrange(1, 2000) for _ in range(1000))
        ]
    # A third each: marked, unmarked, and right without a number at the end.
    changes: list[Callable[[str], str]] = [
        lambda text: text,
        lambda text: text.replace("#### ", "The answer is "),
        lambda text: text + "\nThat is what was asked for, and nothing else was.",
    ]
    return [
        (changes[i % 3](solution), normalise(solution))
        for i, solution in enumerate(solutions[j % len(solutions)] for j in range(NUM_GSM8K))
    ]


def mixed_rows() -> list[tuple[str, Columns]]:
    """Made-up answers to prompts over all kinds of instructions, and the prompts' columns."""
    config = TaskConfig(kinds=("all",), max_words=250, num_train=NUM_MIXED)
    generator = random.Random(0)
    rows = []
    for prompt in make_task(config, seed=0, prompts_per_generation=1).train:
        ids, kwargs = prompt.columns["instruction_id_list"], prompt.columns["kwargs"]
        assert isinstance(ids, list) and isinstance(kwargs, list)
        arguments = tuple(each for each in kwargs if isinstance(each, dict))
        asked = IfevalPrompt(0, "", tuple(map(str, ids)), arguments)
        rows.append((make_response(asked, generator, sentences=SENTENCES), prompt.columns))
    return rows


def isolated_rows(name: str) -> tuple[list[str], Mapping[str, JsonValue]]:
    """Completions for a reward that runs in a process of its own, and its options."""
    if name == "math":
        texts = [
            f"So it is $\\frac{{{i}}}{{3}}$, that is \\boxed{{\\frac{{{i}}}{{3}}}}."
            for i in range(NUM_ISOLATED)
        ]
        return texts, {}
    if name == "regex":
        return [f"<answer>{i}</answer>" for i in range(NUM_ISOLATED)], {"pattern": r"<answer>\d+"}
    return [json.dumps({"name": str(i)}) for i in range(NUM_ISOLATED)], {"schema": dict(SCHEMA)}


def best_rate(
    num: int, repeats: int, clock: Callable[[], float], work: Callable[[], list[Score]]
) -> float:
    """Completions a second, the best of so many times."""
    seconds = []
    for _ in range(repeats):
        started = clock()
        scores = work()
        seconds.append(clock() - started)
        assert len(scores) == num and not any(s.reason.startswith("error") for s in scores)
    return num / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with GSM8K's test.jsonl")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    answers = gsm8k_rows(given.data)
    scored: list[tuple[str, Reward, list[tuple[str, Columns]]]] = [
        ("gsm8k", gsm8k_reward, [(text, {"answer": answer}) for text, answer in answers]),
        ("instructions_mix", instructions_mix_reward, mixed_rows()),
    ]
    for name, reward, rows in scored:
        texts, columns = [text for text, _ in rows], [columns for _, columns in rows]
        work = functools.partial(score_batch, reward, texts, columns)
        rate = best_rate(len(rows), given.repeats, time.process_time, work)
        length = sum(map(len, texts)) / len(texts)
        print(f"{name:<16} {rate:>9,.0f} completions/s, {length:.0f} characters each on average")
    for name in ("math", "regex", "json_schema"):
        completions, options = isolated_rows(name)
        items = [Prompted(text, (), {"answer": f"{i}/3"}) for i, text in enumerate(completions)]
        with Scorer([RewardSpec(name, options)], num_processes=1) as scorer:
            scorer.score(items[:1])
            rate = best_rate(
                len(items), given.repeats, time.perf_counter, functools.partial(scorer.score, items)
            )
        print(f"{name:<16} {rate:>9,.0f} completions/s, one child process")


if __name__ == "__main__":
    main()
