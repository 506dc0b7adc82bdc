"""How many IFEval completions one core scores a second.

    python benchmarks/ifeval.py --prompts .../input_data.jsonl

The responses are made up, see `es_align.bench.ifeval_responses`, and none comes twice; every one is
judged strictly and loosely on all its prompt's instructions, as the reward `ifeval` does it. What
is loaded at first use (language profiles, sentence parameters) is timed by itself. `--responses`
takes a file of a model's own instead: {"key", "response"} a line.
"""

import argparse
import datetime
import json
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from es_align.bench.hardware import find_hardware
from es_align.bench.ifeval_responses import IfevalPrompt, make_response, read_ifeval_prompts
from rewards.base import Columns
from rewards.ifeval.detection import load_profiles
from rewards.ifeval.sentences import load_parameters
from rewards.instruction_following import ifeval_reward

SENTENCES = range(10, 60)  # some 1,500 characters, as long as a model's own


def columns_of(prompt: IfevalPrompt) -> Columns:
    """The columns a task would give the reward."""
    return {
        "instruction_id_list": list(prompt.instruction_ids),
        "kwargs": [dict(kwargs) for kwargs in prompt.kwargs],
    }


def read_responses(file: Path, prompts: list[IfevalPrompt]) -> list[tuple[str, Columns]]:
    """A model's responses and the columns of their prompts."""
    by_key = {prompt.key: columns_of(prompt) for prompt in prompts}
    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line.strip()]
    return [(row["response"], by_key[row["key"]]) for row in rows]


def make_responses(prompts: list[IfevalPrompt], num: int) -> list[tuple[str, Columns]]:
    """Made-up responses to the prompts in turn, and their columns."""
    generator = random.Random(0)
    rows = [prompts[index % len(prompts)] for index in range(num)]
    return [(make_response(row, generator, sentences=SENTENCES), columns_of(row)) for row in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--responses", type=Path)
    parser.add_argument("--completions", type=int, default=5410)
    options = parser.parse_args()
    prompts = read_ifeval_prompts(options.prompts)
    rows = (
        read_responses(options.responses, prompts)
        if options.responses
        else make_responses(prompts, options.completions)
    )

    started = time.process_time()
    load_profiles()
    load_parameters()
    load_s = time.process_time() - started
    seconds, seconds_by_kind = [], defaultdict(list)
    for response, columns in rows:
        started = time.process_time()
        ifeval_reward(response, columns)
        seconds.append(time.process_time() - started)
        ids = columns["instruction_id_list"]
        if isinstance(ids, list) and len(ids) == 1:
            seconds_by_kind[ids[0]].append(seconds[-1])

    print(f"{datetime.date.today()}, {find_hardware()}")
    length = statistics.mean(len(response) for response, _ in rows)
    print(f"{len(rows)} completions of {length:.0f} characters on average, seconds of one core")
    print(f"{len(rows) / sum(seconds):.0f} completions a second, after {load_s:.1f} s of loading")
    p50, p99, longest = np.percentile(seconds, (50, 99, 100)) * 1e3
    print(f"median {p50:.3f} ms, 99th percentile {p99:.2f} ms, longest {longest:.1f} ms")
    print("| the only instruction | mean, ms |\n|---|---|")
    for kind, times in sorted(seconds_by_kind.items(), key=lambda item: -statistics.mean(item[1])):
        print(f"| {kind} | {statistics.mean(times) * 1e3:.3f} |")


if __name__ == "__main__":
    main()
