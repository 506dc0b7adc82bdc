"""Jobs one after the other, each in a process, and going on after the last finished one."""

import json

import pytest
from comparisons import comparison, result

from es_align.compare import running
from es_align.compare.job import RESULT, TRAINED
from es_align.errors import ConfigError, RunFolderError, WorkerError


@pytest.fixture
def calls(monkeypatch):
    """What was asked of job processes, which answer at once; `broken` fails."""
    made = []

    def call(what, folder, say):
        made.append((what, folder.name))
        if folder.name in broken:
            raise WorkerError(f"{folder.name} failed")
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
    with pytest.raises(WorkerError, match="grpo,seed=0 failed"):
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
        running._call("train", folder, lambda line: None)


def test_without_trl_nothing_begins(monkeypatch, tmp_path):
    def missing():
        raise ConfigError("trl is not installed")

    monkeypatch.setattr(running, "check_trl", missing)
    with pytest.raises(ConfigError, match="trl is not installed"):
        running.compare(comparison(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
