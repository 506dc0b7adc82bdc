"""What a run was given beside its configuration: kept in its folder, compared at a resume."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from transformers import AutoTokenizer

from es_align import load_config, train
from es_align.errors import RunFolderError
from es_align.models import resolve_model
from es_align.run_inputs import RunInputs, check_inputs, keep_inputs
from es_align.tasks import make_task

Here: TypeAlias = Callable[[], AbstractContextManager[None]]

TINY = "configs/tiny.yaml"
REWARD = "def score(prompts, completions, **columns): return [float(len(c)) for c in completions]\n"


@pytest.fixture
def begun(
    workers_here: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> Iterator[Path]:
    """A run of one generation with a reward file; the test's own go on in this process too."""
    (tmp_path / "own.py").write_text(REWARD)
    with workers_here():
        run(tmp_path, generations=1)
        yield tmp_path


def run(folder: Path, generations: int, *, resume: bool = False) -> None:
    overrides = [f"generations={generations}", f"reward={folder / 'own.py'}:score"]
    train(load_config(TINY, overrides), run_dir=folder / "run", resume=resume)


def test_the_first_prompt_is_kept_as_the_model_reads_it(begun: Path) -> None:
    kept = json.loads((begun / "run" / "prompt.json").read_text())
    assert kept["prompt_id"] == "train/0"
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny", "fp32").engine)
    assert tokenizer.decode(kept["token_ids"]) == kept["text"]
    assert (begun / "run" / "rewards" / "1-own.py").read_text() == REWARD


def test_a_resume_goes_on_with_the_same_inputs(begun: Path) -> None:
    run(begun, generations=2, resume=True)


def test_a_resume_with_a_changed_reward_file_is_refused(begun: Path) -> None:
    (begun / "own.py").write_text(REWARD.replace("float", "-float"))
    with pytest.raises(RunFolderError, match=r"begun with another own\.py, which is kept in .*put"):
        run(begun, generations=2, resume=True)


def test_a_resume_with_another_rendering_is_refused(begun: Path) -> None:
    file = begun / "run" / "prompt.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "token_ids": kept["token_ids"][1:]}))
    with pytest.raises(RunFolderError, match="begun with other tokens of prompt train/0"):
        run(begun, generations=2, resume=True)
    file.unlink()
    with pytest.raises(RunFolderError, match=r"prompt\.json is missing; restore it"):
        run(begun, generations=2, resume=True)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_resume_with_other_prompts_is_refused(tmp_path: Path, split: str) -> None:
    config = load_config(TINY)
    task = make_task(config.task, seed=0, prompts_per_generation=1)
    prompts = list(getattr(task, split))
    prompts[-1] = replace(prompts[-1], columns={**prompts[-1].columns, "topic": "another"})
    changed = copy.copy(task)
    setattr(changed, split, tuple(prompts))
    model = resolve_model(config.model, config.precision)
    inputs = RunInputs.of(config, model, task)
    keep_inputs(tmp_path, inputs)
    check_inputs(tmp_path, inputs)
    with pytest.raises(RunFolderError, match="begun with other prompts, or other columns"):
        check_inputs(tmp_path, RunInputs.of(config, model, changed))


def test_a_run_from_before_the_digest_goes_on(begun: Path) -> None:
    file = begun / "run" / "prompt.json"
    kept = json.loads(file.read_text())
    del kept["prompts_digest"]
    file.write_text(json.dumps(kept))
    run(begun, generations=2, resume=True)
