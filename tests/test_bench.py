"""The bench without an engine: who answers what, in which order, what the figures come to, and what
happens to an arm that dies.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import es_align.bench.arms
from es_align.bench.population import bench_population, result_table
from es_align.bench.prompts import BenchRequest, make_requests, num_members
from es_align.bench.rounds import BASE, POPULATION, STOCK, ArmName, Timing, run_rounds
from es_align.bench.settings import BenchSettings, ModelFacts, check_fits, check_settings
from es_align.cli import main
from es_align.errors import ConfigError, WorkerError

KEYS = {
    *("base_tok_s", "population_tok_s", "ratio", "ratio_min", "ratio_max"),
    *("stock_lora_tok_s", "stock_ratio", "stock_ratio_min", "stock_ratio_max", "stock_reason"),
    *("population_change_s", "stock_change_s", "over_stock", "over_stock_min", "over_stock_max"),
    *("bytes_per_member", "stock_bytes_per_member", "changed_answers", "repeats", "is_compiled"),
    *("load_s", "settings", "versions", "hardware", "date"),
}
# Stands in for workers.engines.vllm_bench: the population takes 1.25 times as long as the base,
# stock multi-LoRA 5 times and 1 s more for its members of a generation, and each says who ran.
# `{failure}` is run before the stock arm loads.
STAND_IN = """
import json, os, sys
name = None
for line in sys.stdin:
    message = json.loads(line)
    if message["op"] == "load":
        name = message["arm"]
        if name == "stock":
            {failure}
        answer = {"load_s": 2.0, "is_compiled": message["is_compiled"], "bytes_per_member": 60.0}
        if name == "stock":
            answer["bytes_per_member"] = 1000.0 * message["max_loras"]
    else:
        with open(sys.argv[1], "a") as order:
            order.write(name + " ")
        tokens = len(message["prompts"]) * message["new_tokens"]
        seconds = {"base": 1.0, "population": 1.25, "stock": 5.0}[name]
        answers = [f"{name} {member}" for member in message["members"]]
        change_s = 1.0 if name == "stock" else 0.0
        answer = {"change_s": change_s, "seconds": seconds, "num_tokens": tokens}
        answer["answers"] = answers
    print(json.dumps(answer), flush=True)
"""
SETTINGS = BenchSettings(
    model="tiny", rank=4, members=2, requests=4, new_tokens=10, repeats=2, threads=1
)


def requests_of(members: int, requests: int, round_index: int = 0) -> list[BenchRequest]:
    return make_requests(
        seed=0,
        round_index=round_index,
        members=members,
        requests=requests,
        prompt_tokens=4,
        vocabulary=40,
    )


def test_requests_are_shared_out_in_order() -> None:
    assert [request.member for request in requests_of(3, 8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [request.member for request in requests_of(4, 4)] == [0, 1, 2, 3]
    assert num_members(requests_of(3, 8)) == 3


def test_prompts_are_distinct_from_their_first_token_and_the_same_every_time() -> None:
    prompts = [request.token_ids for request in requests_of(2, 40)]
    assert sorted(token_ids[0] for token_ids in prompts) == list(range(40))
    assert {len(token_ids) for token_ids in prompts} == {4}
    assert all(0 <= token < 40 for token_ids in prompts for token in token_ids)
    assert requests_of(2, 40) == requests_of(2, 40)
    other = {request.token_ids for request in requests_of(2, 40, round_index=1)}
    assert not other & set(prompts)


def test_more_requests_than_first_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="requests=41 must be from 2 to 40"):
        requests_of(2, 41)


class FakeArm:
    """Answers at a fixed pace, and notes every call in a common log."""

    def __init__(
        self, name: ArmName, log: list[tuple[str, int]], seconds: Sequence[float], answer: str
    ) -> None:
        self.name: ArmName = name
        self.log = log
        self.seconds = list(seconds)
        self.answer = answer
        self.generations: list[int] = []

    def run(self, requests: Sequence[BenchRequest], new_tokens: int, generation: int) -> Timing:
        self.log.append((self.name, new_tokens))
        self.generations.append(generation)
        if not self.seconds:
            raise WorkerError(f"{self.name} is dead")
        answers = tuple(self.answer for _ in requests)
        change_s = 2.0 if self.name == STOCK else 0.0
        return Timing(self.seconds.pop(0), change_s, len(requests) * new_tokens, answers)


def run_fakes(
    base: Sequence[float], mine: Sequence[float], stock: Sequence[float], answer: str = "other"
):
    log: list[tuple[str, int]] = []
    arms = [
        FakeArm(BASE, log, base, "base"),
        FakeArm(POPULATION, log, mine, answer),
        FakeArm(STOCK, log, stock, "third"),
    ]
    rounds = [requests_of(2, 4, index) for index in range(len(base))]
    return run_rounds(arms, rounds[0], rounds[1:], 10), log


def test_arms_take_turns_and_the_order_alternates() -> None:
    done, log = run_fakes([9, 1, 1, 1], [9, 1, 1, 1], [9, 1, 1, 1])
    there = ["base", "population", "stock"]
    assert [name for name, _ in log] == [*there, *there, *reversed(there), *there]
    assert [tokens for _, tokens in log] == [8] * 3 + [10] * 9  # the warm-up is short
    assert [list(repeat.timings) for repeat in done.repeats] == [there, there[::-1], there]


def test_a_ratio_is_taken_within_each_repeat_before_the_median() -> None:
    done, _ = run_fakes([9, 1, 2, 4], [9, 2, 2, 5], [9, 10, 8, 40])
    assert done.tok_s(BASE) == 20.0  # 40 tokens in 2 s
    assert done.tok_s(POPULATION) == 20.0
    assert done.ratio(POPULATION) == (0.8, 0.5, 1.0)
    assert done.ratio(STOCK) == (0.1, 0.1, 0.25)
    assert done.changed(POPULATION) == 4
    assert done.failures == {}
    assert done.change_s(STOCK) == 2.0
    assert done.over_stock() == (6.0, 5.0, 8.4)  # 12 / 2, 10 / 2, 42 / 5


def test_every_round_has_a_generation_of_its_own() -> None:
    arms = [FakeArm(BASE, [], [1, 1, 1], "base"), FakeArm(POPULATION, [], [1, 1, 1], "other")]
    run_rounds(arms, requests_of(2, 4), [requests_of(2, 4, index) for index in (1, 2)], 10)
    assert arms[1].generations == [0, 1, 2]


def test_a_stock_arm_that_dies_halfway_has_a_reason_and_no_figure() -> None:
    done, log = run_fakes([9, 1, 1], [9, 1, 1], [9, 1])
    assert done.failures == {"stock": "stock is dead"}
    assert done.tok_s(STOCK) is None
    assert done.ratio(STOCK) is None
    assert done.ratio(POPULATION) == (1.0, 1.0, 1.0)
    assert len(log) == 9


def test_the_other_arms_may_not_die() -> None:
    with pytest.raises(WorkerError, match="population is dead"):
        run_fakes([9, 1, 1], [9, 1], [9, 1, 1])


def test_members_that_change_no_answer_are_an_error() -> None:
    with pytest.raises(WorkerError, match="all 4 answers of the population are the base model's"):
        run_fakes([9, 1], [9, 1], [9, 1], answer="base")


def test_answers_of_another_length_are_an_error() -> None:
    class Short(FakeArm):
        def run(self, requests: Sequence[BenchRequest], new_tokens: int, generation: int) -> Timing:
            return Timing(1.0, 0.0, 39, ("short",) * len(requests))

    arms = [FakeArm(BASE, [], [1, 1], "base"), Short(POPULATION, [], [], "")]
    with pytest.raises(WorkerError, match="generated 39 tokens for 4 requests of 8, not 32"):
        run_rounds(arms, requests_of(2, 4), [requests_of(2, 4, 1)], 10)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--members", "0"], "--members=0 must be at least 1"),
        (["--members", "129"], "is more than --requests=128"),
        (["--members", "129"], "use at least --requests 129"),
        (["--new-tokens", "0"], "--new-tokens=0 must be at least 1"),
        (["--repeats", "-1"], "--repeats=-1 must be at least 1"),
        (["--rank", "0"], "--rank=0 must be at least 1"),
        (["--stock-slots", "0"], "--stock-slots=0 must be at least 1"),
        (["--sigma", "0"], "--sigma=0.0 must be above 0"),
        (["--precision", "int16"], "must be one of bf16, int8, int4; did you mean"),
        (["--precision", "fp32"], "vLLM's fast paths start at bf16"),
        (["--space", "weight"], "did you mean weights?"),
        (["--threads", "4096"], "the cores this process may use; leave it out to use all"),
        (["--model", "tiny", "--rank", "33"], "use at most 16"),
        (["--model", "tiny", "--requests", "300", "--rank", "4"], "at most --requests 258"),
        (["--model", "tiny", "--new-tokens", "600", "--rank", "4"], "the model has 512 positions"),
        (["--model", "./nowhere"], "'./nowhere' is no directory"),
    ],
)
def test_mistakes_are_told_before_anything_loads(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.setattr(es_align.bench.arms, "COMMAND", ("/no/such/program",))
    monkeypatch.setattr(sys, "argv", ["es-align", "bench", "population", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    out, err = capsys.readouterr()
    assert exited.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1


def test_a_model_without_the_target_layers_is_refused() -> None:
    facts = ModelFacts(vocabulary=258, max_len=512, shapes={})
    with pytest.raises(ConfigError, match="has no layer named q_proj, k_proj"):
        check_fits(BenchSettings(), facts)


def test_the_defaults_can_run() -> None:
    check_settings(BenchSettings())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Replaces the arms' program; `failure` is what the stock arm does before it is loaded."""

    def replace(failure: str = "pass") -> Path:
        program = tmp_path / "stand_in.py"
        program.write_text(STAND_IN.replace("{failure}", failure))
        order = tmp_path / "order.txt"
        command = (sys.executable, str(program), str(order))
        monkeypatch.setattr(es_align.bench.arms, "COMMAND", command)
        return order

    return replace


def test_a_whole_bench_of_stand_ins(stand_in: Callable[..., Path]) -> None:
    order = stand_in()
    notes: list[str] = []
    result = bench_population(SETTINGS, note=notes.append)
    there = "base population stock"
    assert order.read_text().split() == f"{there} {there} stock population base".split()
    assert (result.base_tok_s, result.population_tok_s, result.stock_lora_tok_s) == (40, 32, 8)
    assert (result.ratio, result.ratio_min, result.ratio_max) == (0.8, 0.8, 0.8)
    assert (result.stock_ratio, result.stock_reason) == (0.2, None)
    assert (result.population_change_s, result.stock_change_s) == (0.0, 1.0)
    assert result.over_stock == 4.8  # 6 s of stock's over 1.25
    assert (result.bytes_per_member, result.changed_answers) == (60.0, 4)
    assert result.stock_bytes_per_member == 2000.0  # the stand-in's word for two slots, all members
    assert result.is_compiled == {"base": True, "population": True, "stock": True}
    assert result.settings["requests"] == 4
    assert notes[0] == "base: ready in 2.0 s, compiled"
    assert notes[-1] == "repeat 2: stock 8.0, population 32.0, base 40.0 tok/s"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("""print('{"error": "AttributeError: weight is None"}', flush=True); continue""", "None"),
        ("sys.exit('no such kernel')", "ended with code 1. Its last lines: no such kernel"),
    ],
)
def test_a_stock_arm_that_cannot_start_is_null_with_a_reason(
    stand_in: Callable[..., Path], failure: str, reason: str
) -> None:
    stand_in(failure)
    result = bench_population(SETTINGS)
    assert result.stock_lora_tok_s is None
    assert result.stock_ratio is None
    assert result.stock_reason is not None and reason in result.stock_reason
    assert result.ratio == 0.8
    assert reason in str(result_table(result).caption)


def test_without_stock_the_reason_says_so(stand_in: Callable[..., Path]) -> None:
    order = stand_in()
    settings = BenchSettings(model="tiny", rank=4, requests=64, repeats=1, has_stock=False)
    result = bench_population(settings)
    assert result.stock_reason == "left out by --no-stock"
    assert order.read_text().split() == ["base", "population"] * 2


def test_the_command_prints_one_json_object(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    stand_in()
    program = (
        "import sys, es_align.bench.arms\n"
        f"es_align.bench.arms.COMMAND = {es_align.bench.arms.COMMAND!r}\n"
        "from es_align.cli import main; main()"
    )
    options = "--model tiny --rank 4 --members 2 --requests 4 --new-tokens 10 --repeats 2"
    done = subprocess.run(
        [sys.executable, "-c", program, "bench", "population", *options.split(), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    tree = json.loads(done.stdout)
    assert set(tree) == KEYS
    assert (tree["base_tok_s"], tree["ratio"], tree["stock_ratio"]) == (40.0, 0.8, 0.2)
    assert tree["repeats"][0] == {"base": 40.0, "population": 32.0, "stock": 8.0}
    assert tree["settings"]["members"] == 2
    assert {"cpu", "num_cores", "flags", "gpus"} == set(tree["hardware"])
    assert "torch" in tree["versions"]
    assert "repeat 2: stock 8.0" in done.stderr
