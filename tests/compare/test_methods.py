"""Both methods in earnest on the tiny model: a comparison from its command to its report."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from comparisons import comparison

from es_align.compare.jobs import make_jobs
from es_align.compare.packages import TESTED
from es_align.errors import WorkerError
from es_align.task_checks import make_checked_task
from rewards.base import unscored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("trl") is None, reason="TRL is not installed: EXTRAS=dev,grpo make setup"
    ),
]
CLI = [sys.executable, "-m", "es_align"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of two arms, and what its command printed."""
    folder = tmp_path_factory.mktemp("compare")
    tree = comparison(
        budget={"completions": 16}, drift={"task": {"name": "letters", "num_heldout": 4}}
    ).model_dump(mode="json")
    tree["arms"]["grpo"]["settings"] |= {"dtype": "float32", "learning_rate": 1e-3, "every": 1}
    tree["arms"]["es"]["settings"] |= {"evaluation": {"every": 1}, "generations": 9}
    (folder / "c.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [*CLI, "compare", str(folder / "c.yaml"), "--out", str(folder / "out"), "--json"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out", json.loads(done.stdout.splitlines()[-1])


def test_both_arms_spend_one_budget_on_one_question(compared):
    folder, report = compared
    es, grpo = report["arms"]
    assert (es["kind"], grpo["kind"]) == ("es", "grpo")
    assert es["completions"] == grpo["completions"] == 16
    assert [point["completions"] for point in es["curve"]] == [0, 8, 16]
    assert [point["completions"] for point in grpo["curve"]] == [0, 8, 16]
    for arm in (es, grpo):
        assert arm["tokens"] > 0
        assert arm["train_s"] > 0
        assert arm["peak_rss_bytes"] > arm["imports_rss_bytes"] > 2**26
        assert arm["device_s"] > 0
        assert arm["drift"]["untouched_before"] is not None
        assert "torch" in arm["machine"]["versions"]
    assert {"trl", "peft"} <= set(grpo["machine"]["versions"])
    assert json.loads((folder / "comparison.json").read_text()) == report


def test_grpo_stops_where_the_reward_fails_on_most_of_a_step():
    from es_align.compare.grpo import Counts

    class Scorer:
        """Gives what it is told to."""

        def score(self, items):
            return [unscored(reason) for reason in reasons]

    counts = Counts(make_checked_task(make_jobs(comparison(), is_begun=False)[0].config), Scorer())
    asked = {"completions": [[{"content": ""}]] * 4, "completion_ids": [[1, 2]] * 4, "row": [0] * 4}
    reasons = ["no_score", "no_score", "no_score", "error:timeout"]
    assert counts.reward(**asked) == [None] * 4
    assert (counts.completions, counts.tokens) == (4, 8)
    reasons = ["error:timeout", "error:KeyError", "error:timeout", "no_score"]
    with pytest.raises(WorkerError, match=r"failed on 3 of 4 .*\(error:timeout, error:KeyError\)"):
        counts.reward(**asked)


def test_grpo_leaves_adapters_that_moved(compared):
    folder, _ = compared
    job = folder / "jobs" / "grpo,seed=0"
    adapters = sorted(path.name for path in (job / "model").glob("step-*"))
    assert adapters == ["step-000001", "step-000002"]
    result = json.loads((job / "result.json").read_text())
    assert result["drift"]["kl_per_token"] >= 0


def test_a_resume_has_nothing_left_to_do(compared):
    folder, report = compared
    done = subprocess.run(
        [
            *CLI,
            "compare",
            str(folder.parent / "c.yaml"),
            "--out",
            str(folder),
            "--resume",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["arms"] == report["arms"]
    assert done.stderr.count("done before") == 2


def test_the_tested_range_is_the_constrained_one(repository: Path):
    pinned = next(
        line.removeprefix("trl==")
        for line in (repository / "constraints.txt").read_text().splitlines()
        if line.startswith("trl==")
    )
    assert pinned.rpartition(".")[0] == TESTED[0]


def test_a_warm_start_leaves_an_adapter_that_both_take(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name, num in (("train", 8), ("test", 2)):
        rows = [
            {"question": f"{name} {n} + 1?", "answer": f"It is.\n#### {n + 1}"} for n in range(num)
        ]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "sft.yaml"
    task = {"name": "gsm8k", "path": str(data), "num_sft": 4, "num_train": 4}
    settings = {"model": "tiny", "task": task, "lora_r": 2, "batch_size": 2, "dtype": "float32"}
    config.write_text(yaml.safe_dump(settings))
    out = tmp_path / "adapter"
    done = subprocess.run(
        [*CLI, "sft", str(config), "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["num_problems"], result["steps"]) == (4, 2)
    assert result["loss"] > 0
    assert (out / "adapter_model.safetensors").is_file()
    again = subprocess.run(
        [*CLI, "sft", str(config), "--out", str(out)], capture_output=True, text=True
    )
    assert again.returncode == 2
    assert "is not empty" in again.stderr
