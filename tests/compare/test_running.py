"""Jobs one after the other, each in a process, and going on after the last finished one."""

import json
import os
from dataclasses import replace

import pytest
import torch
from comparisons import comparison, result

from es_align.compare import running
from es_align.compare.inputs import Given
from es_align.compare.job import MEASURED, RESULT, TRAINED
from es_align.compare.jobs import make_jobs
from es_align.errors import ConfigError, DataError, RunFolderError, WorkerError
from workers.allocator import allocator_settings


@pytest.fixture
def calls(monkeypatch):
    """What was asked of job processes, which answer at once; `broken` fails."""
    made = []

    def call(what, folder, environment, say):
        made.append((what, folder.name))
        if folder.name in broken:
            raise WorkerError(f"{folder.name} failed")
        assert what == "train" or (folder / MEASURED).is_file()
        if what == "train":
            (folder / TRAINED).write_text("{}")
        else:
            rates = [1, 1] if "0.0001" in folder.name else [0, 1]
            result([0, 0], rates).write(folder / RESULT)

    broken = set()
    monkeypatch.setattr(running, "_call", call)
    monkeypatch.setattr(running, "check_trl", lambda: None)
    return made, broken


def swept():
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["grpo"]["sweep"] = {"learning_rate": [1e-5, 1e-4]}
    return comparison(arms=arms, seeds=[0, 1])


def test_the_best_of_a_sweep_goes_on_with_the_other_seeds(calls, tmp_path):
    made, _ = calls
    running.compare(swept(), tmp_path / "out")
    assert [name for what, name in made if what == "train"] == [
        "es,seed=0",
        "es,seed=1",
        "grpo,learning_rate=1e-05,seed=0",
        "grpo,learning_rate=0.0001,seed=0",
        "grpo,learning_rate=0.0001,seed=1",
    ]


def test_what_is_done_stays_and_what_was_broken_off_begins_anew(calls, tmp_path):
    made, broken = calls
    broken.add("grpo,seed=0")
    with pytest.raises(WorkerError, match="1 of 2 jobs failed: grpo,seed=0"):
        running.compare(comparison(), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [arm["arm"] for arm in report["arms"]] == ["es"]
    left = tmp_path / "out" / "jobs" / "grpo,seed=0" / "half"
    left.write_text("of a run")
    broken.clear()
    made.clear()
    told = []
    running.compare(comparison(), tmp_path / "out", resume=True, say=told.append)
    assert made == [("train", "grpo,seed=0"), ("measure", "grpo,seed=0")]
    assert "es,seed=0: done before" in told
    assert not left.exists()


def test_a_job_that_fails_leaves_the_others_to_run(calls, tmp_path):
    made, broken = calls
    broken.update({"es,seed=0", "grpo,learning_rate=0.0001,seed=0"})
    told = []
    with pytest.raises(
        WorkerError,
        match=r"2 of 5 jobs failed: es,seed=0; grpo,learning_rate=0.0001,seed=0\. ",
    ):
        running.compare(swept(), tmp_path / "out", say=told.append)
    trained = [name for what, name in made if what == "train"]
    # Of the sweep the one that could be tried goes on.
    assert trained == [
        "es,seed=0",
        "es,seed=1",
        "grpo,learning_rate=1e-05,seed=0",
        "grpo,learning_rate=0.0001,seed=0",
        "grpo,learning_rate=1e-05,seed=1",
    ]
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert sorted(report["failed"]) == sorted(broken)
    assert report["num_left"] == 2
    assert "error: es,seed=0 failed" in told


def test_a_trained_job_is_not_trained_again(calls, tmp_path):
    made, _ = calls
    running.compare(comparison(), tmp_path / "out")
    (tmp_path / "out" / "jobs" / "es,seed=0" / RESULT).unlink()
    made.clear()
    running.compare(comparison(), tmp_path / "out", resume=True)
    assert made == [("measure", "es,seed=0")]


def test_a_resume_takes_what_was_added(calls, tmp_path):
    made, _ = calls
    running.compare(comparison(), tmp_path / "out")
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["more"] = {"kind": "es", "settings": {**arms["es"]["settings"], "population": 8}}
    made.clear()
    report = running.compare(comparison(arms=arms, seeds=[0, 1]), tmp_path / "out", resume=True)
    trained = [name for what, name in made if what == "train"]
    assert trained == ["es,seed=1", "grpo,seed=1", "more,seed=0", "more,seed=1"]
    assert [job.name for job in report.arms if job.seed == 0] == [
        "es,seed=0",
        "grpo,seed=0",
        "more,seed=0",
    ]


def test_a_resume_refuses_a_changed_arm(calls, tmp_path):
    running.compare(comparison(), tmp_path / "out")
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["es"]["settings"]["population"] = 8
    with pytest.raises(RunFolderError, match=r"settings \(es,seed=0\).*a name of its own"):
        running.compare(comparison(arms=arms), tmp_path / "out", resume=True)


def test_folders_of_others_are_refused(calls, tmp_path):
    running.compare(comparison(), tmp_path / "out")
    with pytest.raises(RunFolderError, match="is not empty; go on with --resume"):
        running.compare(comparison(), tmp_path / "out")
    with pytest.raises(RunFolderError, match=r"begun with other settings \(budget\)"):
        running.compare(comparison(budget={"tokens": 900}), tmp_path / "out", resume=True)
    with pytest.raises(RunFolderError, match="holds no comparison"):
        running.compare(comparison(), tmp_path / "empty", resume=True)


def test_a_process_that_fails_says_why(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    with pytest.raises(WorkerError, match=r"job failed \(train, exit code 1\).*job.json.*--resume"):
        running._call("train", folder, os.environ, lambda line: None)


def test_a_process_that_was_killed_says_so():
    assert "memory is short" in running._ending(-9)
    assert running._ending(2) == "exit code 2"


def test_grpo_computes_as_a_worker_does_and_on_one_gpu(monkeypatch):
    es, grpo = make_jobs(comparison(), is_begun=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert running._environment(es) == dict(os.environ)
    given = running._environment(grpo)
    assert given["CUDA_VISIBLE_DEVICES"] == "2"
    assert given | allocator_settings(has_gpu=torch.cuda.is_available()) == given


def test_without_trl_nothing_begins(monkeypatch, tmp_path):
    def missing():
        raise ConfigError("trl is not installed")

    monkeypatch.setattr(running, "check_trl", missing)
    with pytest.raises(ConfigError, match="trl is not installed"):
        running.compare(comparison(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_resume_refuses_other_prompts_and_another_start(tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    (start / "adapter_config.json").write_text("{}")
    job = replace(make_jobs(comparison(), is_begun=False)[0], start=str(start))
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        Given.to(job).keep_or_check(out)
    (start / "adapter_config.json").write_text('{"r": 2}')
    with pytest.raises(RunFolderError, match=r"with adapter_config.json \w{20} of start .* put it"):
        Given.to(job).keep_or_check(out)
    (start / "adapter_config.json").write_text("{}")
    task = job.config.task.model_copy(update={"system_prompt": "Be brief."})
    config = job.config.model_copy(update={"task": task})
    with pytest.raises(RunFolderError, match="with other tokens of prompt train/0"):
        Given.to(replace(job, config=config)).keep_or_check(out)
    with pytest.raises(ConfigError, match="start=gone has no adapter"):
        Given.to(replace(job, start="gone"))


def test_what_a_comparison_is_given_is_looked_at_first_and_compared(calls, tmp_path, monkeypatch):
    """By `compare` itself."""
    rows = "".join(json.dumps({"prompt": f"Say {n}.", "answer": str(n)}) + "\n" for n in range(12))
    file = tmp_path / "mine.jsonl"
    shared = comparison().shared | {
        "task": {"name": "prompts", "path": str(file), "num_train": 8, "num_heldout": 4},
        "reward": "exact_match",
    }
    config, out = comparison(shared=shared), tmp_path / "out"
    with pytest.raises(DataError, match="does not exist"):
        running.compare(config, out)
    assert not out.exists()
    file.write_text(rows)
    running.compare(config, out)
    running.compare(config, out, resume=True)
    file.write_text(rows.replace("Say 3", "Tell 3").replace("Say 7", "Tell 7"))
    with pytest.raises(RunFolderError, match="was begun with other"):
        running.compare(config, out, resume=True)
