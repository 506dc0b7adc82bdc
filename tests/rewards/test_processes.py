"""Rewards in processes: what is late is killed, what crashes is counted, nothing is lost."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from kernels.errors import ConfigError
from rewards.base import Prompted
from rewards.processes import ProcessPool
from rewards.scoring import Scorer
from rewards.specs import RewardFile, RewardSpec

FAULTY = """
import asyncio, os, signal, time

def score(prompts, completions, answer, **columns):
    said = completions[0]
    if said == "loop":
        while True:
            pass
    if said == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try:
                time.sleep(100)
            except BaseException:
                pass
    if said == "exit":
        raise SystemExit(3)
    if said == "die":
        os._exit(1)
    if said == "killed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if said == "raise":
        raise KeyError("answer")
    if said == "print":
        print("x" * 100_000)
    if said == "short":
        return [1.0] * (len(completions) - 1)
    if said == "none":
        return None
    if said == "long":
        return [1.0] * (len(completions) + 1)
    return [VALUES.get(c, float(c == a)) for c, a in zip(completions, answer)]

VALUES = {"nan": float("nan"), "inf": float("inf"), "text": "1.0", "None": None, "true": True,
          "half": 0.5, "object": object()}

async def later(prompts, completions, **columns):
    await asyncio.gather(*(asyncio.sleep(0.2) for _ in completions))
    return [1.0 for _ in completions]

async def never(prompts, completions, **columns):
    await asyncio.Event().wait()
"""


def own(function: str = "score", source: str = FAULTY, **settings) -> RewardSpec:
    file = RewardFile("/nowhere/mine.py", function, source)
    return RewardSpec(f"mine.py:{function}", file=file, **settings)


def items(texts: list[str], answer: str = "a") -> list[Prompted]:
    return [Prompted(t, ({"role": "user", "content": "?"},), {"answer": answer}) for t in texts]


@pytest.mark.parametrize(
    ("text", "reward", "reason"),
    [
        ("a", 1.0, "ok"),
        ("b", 0.0, "below_pass"),
        ("half", 0.5, "below_pass"),
        ("true", 1.0, "ok"),
        ("None", None, "no_score"),
        ("nan", None, "error:not_finite"),
        ("inf", None, "error:not_finite"),
        ("text", None, "error:not_a_number"),
        ("object", None, "error:not_a_number"),
    ],
)
def test_what_a_function_may_return(faulty, text, reward, reason):
    (score,) = faulty.score(items([text]))
    assert (score.reward, score.reason, score.passed) == (reward, reason, reason == "ok")


@pytest.fixture(scope="module")
def faulty():
    with Scorer([own(batch_size=1, time_limit_s=1.0)], num_processes=1) as scorer:
        yield scorer


def test_every_fault_is_counted_on_its_item_and_the_others_are_scored(faulty):
    faults = {
        "loop": "error:timeout",
        "stubborn": "error:timeout",
        "exit": "error:SystemExit",
        "die": "error:crashed",
        "killed": "error:crashed",
        "raise": "error:KeyError",
        "short": "error:wrong_length",
        "long": "error:wrong_length",
        "none": "error:not_a_list",
    }
    texts = [text for fault in faults for text in ("a", fault, "b")] + ["print"]
    scores = faulty.score(items(texts))
    reasons = [score.reason for score in scores]
    wanted = [r for reason in faults.values() for r in ("ok", reason, "below_pass")]
    assert reasons == [*wanted, "below_pass"]
    assert all((s.reward is None) == s.reason.startswith("error") for s in scores)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("raise", "error:KeyError"), ("short", "error:wrong_length"), ("loop", "error:timeout")],
)
def test_a_fault_of_a_call_costs_only_the_item_that_causes_it(fault, reason):
    with Scorer([own(batch_size=3, time_limit_s=1.0)], num_processes=1) as scorer:
        reasons = [s.reason for s in scorer.score(items(["a", "a", "a", fault, "a", "a", "a"]))]
    assert reasons == ["ok", "ok", "ok", reason, "ok", "ok", "ok"]


def test_a_function_that_always_fails_is_not_asked_item_by_item_for_ever(monkeypatch):
    sizes = []
    run = ProcessPool.run

    def counting(self, calls, limit_s):
        sizes.extend(len(call) for call in calls)
        return run(self, calls, limit_s)

    monkeypatch.setattr(ProcessPool, "run", counting)
    with Scorer([own(batch_size=4)], num_processes=1) as scorer:
        reasons = [s.reason for s in scorer.score(items(["raise"] * 16))]
    assert reasons == ["error:KeyError"] * 16
    assert sizes == [4] * 4 + [1] * 4


def test_order_is_kept_over_several_processes():
    with Scorer([own(batch_size=3, num_processes=3)], num_processes=1) as scorer:
        texts = [str(i % 7) for i in range(200)]
        scores = scorer.score(items(texts, answer="3"))
    assert [s.reward for s in scores] == [float(t == "3") for t in texts]


def test_an_async_function_is_awaited_and_its_calls_run_together():
    with Scorer([own("later", batch_size=20)], num_processes=1) as scorer:
        scorer.start()
        started = time.perf_counter()
        assert [s.reward for s in scorer.score(items(["a"] * 20))] == [1.0] * 20
        assert time.perf_counter() - started < 20 * 0.2
    with Scorer([own("never", time_limit_s=0.3)], num_processes=1) as scorer:
        assert [s.reason for s in scorer.score(items(["a"] * 2))] == ["error:timeout"] * 2


# Both leave the session; the parent of the second has ended by then.
STARTERS = {
    "child": "subprocess.Popen(['sleep', '1000'], start_new_session=True).pid",
    "orphan": "int(subprocess.check_output("
    "['setsid', 'sh', '-c', 'sleep 1000 >/dev/null & echo $!'], text=True))",
}
STARTING = """
import subprocess, time

def score(prompts, completions, **columns):
    with open({file!r}, "w") as stream:
        stream.write(str({start}))
    while {is_endless}:
        pass
    return [1.0] * len(completions)
"""


@pytest.mark.parametrize("is_endless", [True, False])
@pytest.mark.parametrize("start", STARTERS.values(), ids=STARTERS)
def test_what_has_left_the_session_ends_with_its_process(tmp_path, start, is_endless):
    file = tmp_path / "pid"
    source = STARTING.format(file=str(file), start=start, is_endless=is_endless)
    limit_s = 5.0 if is_endless else 60.0
    with Scorer([own(source=source, time_limit_s=limit_s)], num_processes=1) as scorer:
        (score,) = scorer.score(items(["a"]))
        pid = int(file.read_text())
        assert is_running(pid) != is_endless
    assert score.reason == ("error:timeout" if is_endless else "ok")
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    """Ended or not; one that was killed may take a moment, and stay as a zombie."""
    for _ in range(20):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.05)
    return True


def test_what_is_not_reached_in_time_has_no_score():
    spec = own(batch_size=1, time_limit_s=60.0)
    with Scorer([spec], num_processes=1, limit_s=1.5) as scorer:
        scorer.start()
        scores = scorer.score(items(["a", "loop", "a"]))
    reasons = [score.reason for score in scores]
    assert reasons == ["ok", "error:out_of_time", "error:out_of_time"]


def test_a_pattern_that_backtracks_for_ever_costs_its_item_only():
    spec = RewardSpec("regex", {"pattern": "(a+)+b"}, time_limit_s=0.5)
    with Scorer([spec], num_processes=2) as scorer:
        scores = scorer.score(items(["ab", "a" * 40, "c", "a" * 41, "aab"]))
    assert [s.reason for s in scores] == ["ok", "error:timeout", "no_match", "error:timeout", "ok"]


@pytest.mark.slow
def test_mathematics_without_end_costs_its_item_only():
    endless = "\\boxed{10000000!-10000000!+7}"
    texts = ["\\boxed{7}", endless, "7", "\\boxed{8}", ""]
    with Scorer([RewardSpec("math", time_limit_s=1.0)], num_processes=1) as scorer:
        scores = scorer.score(items(texts, answer="7"))
    reasons = [score.reason for score in scores]
    assert reasons == ["ok", "error:timeout", "unboxed", "wrong", "empty"]


def test_processes_end_with_the_pool():
    source = "import os\ndef score(prompts, completions): return [os.getpid()] * len(completions)"
    scorer = Scorer([own(source=source)], num_processes=1)
    (score,) = scorer.score(items(["a"]))
    pid = int(score.reward or 0)
    assert Path(f"/proc/{pid}").exists() and pid != os.getpid()
    scorer.close()
    assert not Path(f"/proc/{pid}").exists()
    (score,) = scorer.score(items(["a"]))
    again = int(score.reward or 0)
    assert again != pid
    del scorer
    assert not Path(f"/proc/{again}").exists()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def other(prompts, completions): ...", "has no score; it has the functions other: name"),
        ("x = 1", r"functions \(none\)"),
        ("score = 3", "is a int, no function; write `def score"),
        ("def score(texts): ...", r"score\(texts\) takes no prompts, completions; all arguments"),
        ("def score(prompts): ...", r"takes no completions;"),
        ("def score(x, /, prompts, completions): ...", "takes x by place only"),
        ("def score(:", "cannot be loaded: SyntaxError, line 1: .*; correct the file"),
        ("\nimport nowhere_to_be_found", "ModuleNotFoundError, line 2: No module named"),
        ("raise SystemExit(1)", "cannot be loaded: SystemExit, line 1"),
        ("import os; os._exit(0)", "its process ended while it was loaded"),
    ],
)
def test_what_cannot_be_called_is_refused_in_one_paragraph(source, told):
    pool = ProcessPool(own(source=source), 1)
    with pytest.raises(ConfigError, match=told) as caught:
        pool.start()
    assert str(caught.value).startswith("reward=") and "\n" not in str(caught.value)


def test_arguments_come_by_name():
    source = """
def score(completions, prompts, answer, missing=None, *, scale):
    assert missing is None and prompts == ["?"] * len(completions)
    return [scale * (c == a) for c, a in zip(completions, answer)]
"""
    with Scorer([own(source=source, options={"scale": 2})], num_processes=1) as scorer:
        assert [s.reward for s in scorer.score(items(["a", "b"]))] == [2.0, 0.0]
    pool = ProcessPool(own(source=source, options={"scale": 2}), 1)
    assert pool.start() == ("answer",)
    pool.close()


def test_chat_messages_instead_of_text():
    source = """
def score(prompts, completions, **columns):
    assert [p[-1]["role"] for p in prompts] == ["user"] * len(prompts)
    return [float(c[0]["content"] == "a") for c in completions]
"""
    with Scorer([own(source=source, is_chat=True)], num_processes=1) as scorer:
        assert [s.reward for s in scorer.score(items(["a", "b"]))] == [1.0, 0.0]


def test_any_text_gets_there_and_back():
    source = """
def score(prompts, completions, answer, **columns):
    return [float(c == a) for c, a in zip(completions, answer)]
"""
    texts = ["", "\n", "\r\n\u2028", "\ud800", "\x00", "ü€😀", "x" * 1_000_000]
    asked = [Prompted(text, (), {"answer": text}) for text in texts]
    with Scorer([own(source=source)], num_processes=1) as scorer:
        assert [s.reward for s in scorer.score(asked)] == [1.0] * len(texts)


def test_rewards_are_added_by_weight():
    source = """
def length(prompts, completions, **columns):
    return [None if c == "b" else (1 / 0 if c == "c" else len(c)) for c in completions]
"""
    specs = [
        RewardSpec("exact_match", {"ignore_case": True}),
        own("length", source, weight=-0.1, batch_size=1),
    ]
    with Scorer(specs, num_processes=1) as scorer:
        scores = scorer.score(items(["A", "b", "c", "dd"]))
    assert [s.reward for s in scores] == pytest.approx([0.9, 0.0, None, -0.2])
    assert [s.passed for s in scores] == [True, False, False, False]
    reasons = Counter(s.reason for s in scores)
    assert reasons == {"ok": 1, "wrong": 2, "error:ZeroDivisionError:length": 1}
    assert scores[3].metrics == {"exact_match": 0.0, "length": 2.0}


def test_pass_at_replaces_the_reward_s_own_verdict():
    with Scorer([RewardSpec("letters", pass_at=1.0)], num_processes=1) as scorer:
        assert [s.passed for s in scorer.score(items(["abc", "ab1"]))] == [True, False]


@pytest.mark.parametrize("returned", ["dict.fromkeys([0.0, 1.0])", "{0.0, 1.0}"])
def test_what_has_no_order_is_no_list(returned):
    source = f"def score(prompts, completions, **columns): return {returned}"
    with Scorer([own(source=source)], 1) as scorer:
        scores = scorer.score(items(["a", "b"]), limit_s=30.0)
    assert [score.reason for score in scores] == ["error:not_a_list"] * 2


def test_a_process_that_ended_between_calls_costs_no_item():
    pool = ProcessPool(RewardSpec("regex", {"pattern": "a"}), 1)
    try:
        pool.run([items(["a"])], 30.0)
        (child,) = pool._children
        os.kill(child.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        ((score,),) = pool.run([items(["a"])], 30.0)
    finally:
        pool.close()
    assert score.reason == "ok"
