"""What each precision costs on held-out text: log loss under the engine that runs it.

    python benchmarks/precision.py --model smollm2-135m-instruct

The text is what every Python holds and nobody commits, `pydoc_data.topics` (its help on the
language), in the order of its topics, cut into windows that do not overlap. It is no calibration
data: the checkpoints are rounded to nearest. Every precision is scored in a process of its own, by
the kernels that generate; one whose result is in --folder already is not scored again. Prints a
table with date, hardware and versions, and as its last line one JSON object.
"""

import argparse
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

from es_align.bench.hardware import find_hardware
from es_align.bootstrap import Gain, paired_gain
from es_align.errors import ModelError
from es_align.layouts import GROUP_SIZES, Scheme
from es_align.models import build_once, resolve_model
from es_align.quantizing import quantize_model, weight_bytes
from es_align.versions import versions
from workers.engines.base import EngineSpec
from workers.rendering import Renderer

KV_CACHE_GB = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """One precision on all windows."""

    name: str
    bytes: int  # of the weight files
    seconds: float  # scoring, without loading
    nll_W: list[float]  # mean negative log probability of a token, window by window


def held_out_windows(model: Path, num_windows: int, length: int) -> np.ndarray:
    """The text's first tokens, `[num_windows, length]`. Raises ModelError if it has too few."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    tokens = Renderer(model).tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) < num_windows * length:
        raise ModelError(
            f"the text has {len(tokens)} tokens, fewer than {num_windows} windows of {length}; "
            f"use at most {len(tokens) // length} windows"
        )
    return np.array(tokens[: num_windows * length]).reshape(num_windows, length)


def score(model: Path, name: str, windows_WT: np.ndarray) -> Scored:
    """Load one checkpoint and score the windows; run in a process of its own."""
    from workers.engines.vllm_scoring import load_scorer, log_probabilities

    num_threads = len(os.sched_getaffinity(0))
    length = windows_WT.shape[1] + 1  # vLLM generates one token to score the others
    spec = EngineSpec("vllm", model, name, None, 1, length, KV_CACHE_GB, num_threads)
    scorer = load_scorer(spec)
    started = time.perf_counter()
    scores = log_probabilities(scorer, windows_WT.tolist())
    seconds = time.perf_counter() - started
    return Scored(name, weight_bytes(model), seconds, [-float(s.mean()) for s in scores])


def score_all(
    source: Path, chosen: Sequence[str], windows_WT: np.ndarray, folder: Path
) -> list[Scored]:
    """bf16 and the chosen others, int4 in every group size that fits; each kept in the folder."""
    variants: list[tuple[str, Scheme | None, int | None]] = [("bf16", None, None)]
    variants.append(("int8", "int8", None))
    variants.extend((f"int4, groups of {size}", "int4", size) for size in GROUP_SIZES)
    done = []
    for label, scheme, size in variants:
        if scheme is not None and scheme not in chosen:
            continue
        kept = folder / f"{label}.json"
        if not kept.is_file():
            model = source if scheme is None else folder / label
            try:
                if scheme is not None:
                    make = functools.partial(quantize_model, source, scheme=scheme)
                    build_once(model, functools.partial(make, group_size=size))
            except ModelError as error:
                print(f"{label}: {error}", flush=True)
                continue
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                scored = pool.submit(score, model, label, windows_WT).result()
            kept.write_text(json.dumps(dataclasses.asdict(scored)))
        done.append(Scored(**json.loads(kept.read_text())))
        print(f"{label}: scored in {done[-1].seconds:.1f} s", flush=True)
    return done


def table(rows: Sequence[Scored], costs: Sequence[Gain]) -> str:
    """Markdown, one line a precision."""
    lines = [
        "| precision | checkpoint, MB | log loss, nats a token | perplexity "
        "| cost to bf16, nats a token, 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for row, cost in zip(rows, costs, strict=True):
        nll = float(np.mean(row.nll_W))
        told = "" if row is rows[0] else f"{cost.gain:+.4f} [{cost.low:+.4f}, {cost.high:+.4f}]"
        size = f"{row.bytes / 1e6:.0f}"
        lines.append(f"| {row.name} | {size} | {nll:.4f} | {math.exp(nll):.2f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Score every precision, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=512, help="in a window")
    parser.add_argument(
        "--precisions", nargs="*", choices=["int8", "int4"], default=["int8", "int4"]
    )
    parser.add_argument("--folder", type=Path, help="where checkpoints and results are kept")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="es-align-precision-"))
    folder.mkdir(parents=True, exist_ok=True)
    source = resolve_model(options.model, "bf16").source
    windows_WT = held_out_windows(source, options.windows, options.tokens)
    rows = score_all(source, options.precisions, windows_WT, folder)
    base = np.array(rows[0].nll_W)
    costs = [paired_gain(base, np.array(row.nll_W), samples=10_000, seed=0) for row in rows]

    hardware, python = find_hardware(), platform.python_version()
    print(f"{datetime.date.today()}, {hardware}, Python {python}, {versions()}")
    print(f"{options.model}, {windows_WT.size} tokens in windows of {options.tokens}")
    print(table(rows, costs))
    fields = {
        "date": str(datetime.date.today()),
        "hardware": dataclasses.asdict(hardware),
        "versions": versions() | {"python": python},
        "model": options.model,
        "windows": options.windows,
        "tokens_per_window": options.tokens,
        "tokens_sha256": hashlib.sha256(windows_WT.astype("<i8").tobytes()).hexdigest(),
        "rows": [
            {
                "precision": row.name,
                "bytes": row.bytes,
                "nll": float(np.mean(row.nll_W)),
                "perplexity": math.exp(float(np.mean(row.nll_W))),
                "cost": cost.gain,
                "cost_ci95": [cost.low, cost.high],
                "scoring_s": row.seconds,
            }
            for row, cost in zip(rows, costs, strict=True)
        ],
    }
    print(json.dumps(fields))


if __name__ == "__main__":
    main()
