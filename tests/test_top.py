"""`es-align top`: what a folder says of its run, and how that looks, from files with known rows."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from es_align.config import Config
from es_align.errors import RunFolderError
from es_align.ledger import Ledger, LedgerHeader
from es_align.run_folder import RunFolder
from es_align.top import HeldOut, RunReader, View, WorkerView, is_locked
from es_align.top_view import frame, sparkline

CLI = [sys.executable, "-m", "es_align"]
HERE, ELSEWHERE = os.uname().nodename, "not-this-machine"
HEADER = LedgerHeader("0" * 32, "c" * 64, 0, 3, "b" * 64, "m" * 64, {})


def generation(done: int, wall_s: float, reward: float, **others: float) -> dict[str, object]:
    row = {"generation": done, "wall_s": wall_s, "reward/mean": reward, "reward/std": 0.031}
    row |= {"completions": 8, "failed": 0, "tokens/total": 600, "tokens/per_s": 60.0}
    row |= {"reason/ok": 8, "workers/ready": 2, "workers/idle_share": 0.25}
    row |= {"workers/queue_max": 3, "workers/num_retries": 1, "workers/num_copies": 0}
    return row | {"workers/num_dropped": 0} | others


def evaluation(done: int, wall_s: float, rate: float) -> dict[str, object]:
    return {"generation": done, "wall_s": wall_s, "eval/reward": 0.5, "eval/pass_rate": rate}


FAILURES = {"failed": 3, "reason/error:out_of_time": 1, "reason/dropped": 2, "reason/wrong": 5}
ROWS = [
    evaluation(0, 20.0, 0.125),
    generation(1, 30.0, 0.1),
    generation(2, 42.0, 0.3, **FAILURES),
    evaluation(2, 47.0, 0.25),
    generation(3, 58.0, 0.2),
    evaluation(3, 63.0, 0.1875),
    generation(4, 963.0, 0.4, **FAILURES),  # after a resume that had to load the model
]
WORKERS: list[dict[str, object]] = [
    {
        "worker": 0,
        "host": "node-0.example.org",
        "state": "ready",
        "num_chunks": 3,
        "num_tokens": 500,
        "busy_s": 2.0,
        "idle_s": 0.5,
        "num_starts": 1,
        "problem": "",
    },
    {
        "worker": 1,
        "host": "",
        "state": "placing",
        "num_chunks": 0,
        "num_tokens": 0,
        "busy_s": 0.0,
        "idle_s": 0.0,
        "num_starts": 2,
        "problem": "ActorDiedError: [gone]",
    },
]


@pytest.fixture
def begin(tmp_path: Path, tiny_config: Config) -> Callable[..., RunFolder]:
    """Writes a run folder of 8 generations, evaluated every 2, without a ledger's lock."""

    def write(
        rows: Sequence[dict[str, object]] = (),
        workers: Sequence[dict[str, object]] = (),
        driver: str = ELSEWHERE,
    ) -> RunFolder:
        folder = RunFolder(tmp_path / "run")
        every = tiny_config.evaluation.model_copy(update={"every": 2})
        folder.write_config(tiny_config.model_copy(update={"generations": 8, "evaluation": every}))
        folder.append_rows(folder.metrics, rows)
        if workers:
            row = {"generation": len(rows), "driver": driver, "workers": list(workers)}
            folder.append_rows(folder.workers, [row])
        return folder

    return write


def age(folder: RunFolder, seconds: float) -> None:
    """Make all files so old."""
    for file in folder.path.iterdir():
        written = file.stat().st_mtime - seconds
        os.utime(file, (written, written))


@contextmanager
def written(folder: RunFolder) -> Iterator[None]:
    """The folder of a run that goes on."""
    with Ledger.create(folder.ledger, HEADER):
        yield


def drawn(view: View, width: int, num_rows: int | None = None) -> str:
    console = Console(width=width, height=40)
    with console.capture() as captured:
        console.print(frame(view, console, num_rows))
    return captured.get()


def test_a_view_says_what_the_files_say(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS, WORKERS)
    view = RunReader(folder.path).view()
    assert (view.generation, view.generations, view.wall_s) == (4, 8, 963.0)
    assert (view.model, view.precision, view.engine) == ("tiny", "fp32", "torch")
    assert (view.task, view.space) == ("instructions", "singular_values (weight)")
    assert view.rewards == (0.1, 0.3, 0.2, 0.4)
    assert view.reward_std == 0.031
    assert view.heldout == (HeldOut(0, 0.5, 0.125), HeldOut(2, 0.5, 0.25), HeldOut(3, 0.5, 0.1875))
    assert (view.tokens_per_s, view.num_tokens) == (60.0, 2400)
    assert (view.num_failed, view.num_completions, view.num_failed_in_all) == (3, 8, 6)
    assert view.failures == {"dropped": 2, "error:out_of_time": 1}
    assert view.usage["idle_share"] == 0.25 and view.usage["queue_max"] == 3
    assert view.workers == (
        WorkerView(0, "node-0.example.org", "ready", 250.0, 0.8, 3, 1, ""),
        WorkerView(1, "", "placing", None, None, 0, 2, "ActorDiedError: [gone]"),
    )


def test_time_left_counts_evaluations_and_not_the_loading_after_a_resume(
    begin: Callable[..., RunFolder],
) -> None:
    view = RunReader(begin(ROWS).path).view()
    assert view.generation_s == 11.5  # of 10, 11, 12 and 900
    assert view.left_s == 4 * 11.5 + 2 * 5  # evaluated after 6 and 8


def test_a_folder_without_a_generation_is_a_run(begin: Callable[..., RunFolder]) -> None:
    view = RunReader(begin().path).view()
    assert (view.generation, view.rewards, view.generation_s, view.workers) == (0, (), None, ())
    assert "no generation yet" in drawn(view, 80)


def test_after_the_first_generation_nothing_is_guessed_of_evaluations(
    begin: Callable[..., RunFolder],
) -> None:
    view = RunReader(begin(ROWS[:2]).path).view()
    assert (view.generation_s, view.left_s) == (10.0, 70.0)


@pytest.mark.parametrize("torn", ['{"generation": 5, "rew', "\0\0\0\0\n", '{"generation"\n'])
def test_a_torn_last_line_is_left_out_until_it_is_whole(
    begin: Callable[..., RunFolder], torn: str
) -> None:
    folder = begin(ROWS, WORKERS)
    reader = RunReader(folder.path)
    whole = {file: file.read_bytes() for file in (folder.metrics, folder.workers)}
    for file in whole:
        with file.open("a") as stream:
            stream.write(torn)
    view = reader.view()
    assert view.generation == 4 and len(view.workers) == 2
    for file, content in whole.items():
        file.write_bytes(content)
    folder.append_rows(folder.metrics, [generation(5, 975.0, 0.5)])
    assert reader.view().generation == 5


def test_a_damaged_line_before_the_last_is_named(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS[:2])
    with folder.metrics.open("a") as stream:
        stream.write("[]\n")
    folder.append_rows(folder.metrics, [generation(2, 42.0, 0.3)])
    with pytest.raises(RunFolderError, match=r"metrics.jsonl, line 3 is no JSON object"):
        RunReader(folder.path).view()


def test_a_locked_ledger_is_a_run_that_goes_on(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS, WORKERS)
    reader = RunReader(folder.path)
    with written(folder):
        age(folder, 10_000)
        assert reader.view().life.state == "running"
        assert is_locked(folder.ledger)
    assert not is_locked(folder.ledger)


def test_who_looks_takes_no_lock_from_the_run(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS)
    with written(folder):
        pass
    assert not is_locked(folder.ledger)
    Ledger.open(folder.ledger, for_append=True).close()


def test_without_a_lock_a_run_of_this_machine_has_stopped(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS, WORKERS, driver=HERE)
    age(folder, 300)
    view = RunReader(folder.path).view()
    assert view.life.state == "stopped" and view.life.written_s == pytest.approx(300, abs=20)
    text = drawn(view, 80)
    assert "stopped 5 min" in text and "go on with --resume" in text
    assert " left" not in text


def test_on_another_machine_the_age_of_the_rows_decides(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS[:3], WORKERS)  # its longest step is 12 s
    reader = RunReader(folder.path)
    age(folder, 60)
    view = reader.view()
    assert view.life.state == "elsewhere"
    assert "running on not-this-machine, wrote 1 min" in drawn(view, 80)
    age(folder, 100)
    assert reader.view().life.state == "silent"


def test_slow_generations_are_waited_for(begin: Callable[..., RunFolder]) -> None:
    folder = begin([generation(1, 100.0, 0.1), generation(2, 700.0, 0.2)], WORKERS)
    reader = RunReader(folder.path)
    age(folder, 1500)
    assert reader.view().life.state == "elsewhere"
    age(folder, 500)
    assert reader.view().life.state == "silent"


def test_a_complete_run_is_finished_once_it_is_exported(begin: Callable[..., RunFolder]) -> None:
    rows = [generation(done, 10.0 * done, 0.1) for done in range(1, 9)]
    folder = begin(rows, WORKERS, driver=HERE)
    reader = RunReader(folder.path)
    assert reader.view().life.state == "stopped"
    folder.adapter.mkdir()
    view = reader.view()
    assert (view.life.state, view.left_s) == ("finished", 0.0)


def test_a_resume_for_more_generations_is_seen(
    begin: Callable[..., RunFolder], tiny_config: Config
) -> None:
    folder = begin(ROWS)
    reader = RunReader(folder.path)
    folder.write_config(tiny_config.model_copy(update={"generations": 99}))
    age(folder, 5)
    assert reader.view().generations == 99


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_frame_shows_everything_within_its_width(
    begin: Callable[..., RunFolder], width: int
) -> None:
    view = RunReader(begin(ROWS, WORKERS).path).view()
    text = drawn(replace(view, run="runs/[mine]"), width)
    assert max(map(len, text.splitlines())) <= width
    for shown in (
        "runs/[mine]",
        "generation 4 of 8",
        "50 %",
        "11.5 s a generation",
        "0.400 +-0.031  ▁▆▃█",
        "12.5 % (0)",
        "best 25.0 % (2)",
        "60 a second, 2.4k in all",
        "3 of 8 (dropped 2, error:out_of_time 1)",
        "2 of 2 ready, 25 % idle, queue 3",
        "node-0 ",
        "placing",
        "80 %",
    ):
        assert shown in text
    assert ("ActorDiedError: [gone]" in text) == (width >= 80)
    assert "example.org" not in text


def test_workers_that_do_not_fit_are_counted_and_the_troubled_are_shown(
    begin: Callable[..., RunFolder],
) -> None:
    view = RunReader(begin(ROWS, WORKERS).path).view()
    fast = [
        WorkerView(number, "node", "ready", 100.0 + number, 1.0, 1, 1, "")
        for number in range(2, 30)
    ]
    lines = drawn(replace(view, workers=(*view.workers, *fast)), 80, num_rows=4).splitlines()
    start = next(place for place, line in enumerate(lines) if "last problem" in line)
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["1", "2", "3"]
    assert lines[start + 4].strip() == "and 27 more that are faster"


def test_many_evaluations_keep_the_first_and_the_last(begin: Callable[..., RunFolder]) -> None:
    rows = [evaluation(done, 10.0 * done, done / 100) for done in range(0, 50, 5)]
    text = drawn(RunReader(begin(rows).path).view(), 80)
    assert "0.0 % (0)  ..  40.0 % (40)  45.0 % (45)  best 45.0 % (45)" in text


def test_a_reward_without_verdict_is_shown_itself(begin: Callable[..., RunFolder]) -> None:
    rows = [{"generation": 0, "wall_s": 1.0, "eval/reward": -0.25}]
    assert "-0.250 (0)" in drawn(RunReader(begin(rows).path).view(), 80)


def test_sparklines_span_their_values() -> None:
    assert sparkline([0.0, 0.5, 1.0, 0.0]) == "▁▅█▁"
    assert sparkline([-3.0, -3.0]) == "▁▁"
    assert sparkline([1.0, 2.0], ascii_only=True) == "_#"


def run_top(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "top", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_once_prints_a_frame_and_json_one_object(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS, WORKERS)
    printed = run_top(str(folder.path), "--once")
    assert printed.returncode == 0 and "generation 4 of 8" in printed.stdout
    assert "\x1b" not in printed.stdout
    told = run_top(str(folder.path), "--json")
    view = json.loads(told.stdout)
    assert view["generation"] == 4 and view["life"]["state"] == "elsewhere"
    assert view["workers"][1]["problem"] == "ActorDiedError: [gone]"
    assert view["workers"][1]["tokens_per_s"] is None


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_on_a_terminal_it_goes_on_until_a_key_ends_it(
    begin: Callable[..., RunFolder], key: bytes
) -> None:
    folder = begin(ROWS, WORKERS)
    ours, its = pty.openpty()
    watching = subprocess.Popen(
        [*CLI, "top", str(folder.path)],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "30"},
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    before = termios.tcgetattr(its)
    shown = b""
    while b"generation 4 of 8" not in shown:
        shown += os.read(ours, 4096)
    folder.append_rows(folder.metrics, [generation(5, 975.0, 0.5)])
    while b"generation 5 of 8" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, key)
    assert watching.wait(timeout=60) == 0
    assert termios.tcgetattr(its) == before
    os.close(its)
    os.close(ours)


def own_terminal() -> None:
    """So that Ctrl-C is its own, and heard: what runs these tests may ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_resume_cuts_the_rows_of_workers_too(begin: Callable[..., RunFolder]) -> None:
    folder = begin()
    for done in (0, 1, 2):
        folder.append_rows(folder.workers, [{"generation": done, "driver": "", "workers": []}])
    folder.drop_rows_after(1)
    rows = folder.read_rows(folder.workers)
    assert [row["generation"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "has no config.json, so it holds no run; name a folder that `es-align train` wrote"),
        ("{}}", "config.json is no configuration of this es-align"),
        ('{"modle": "x"}', "config.json is no configuration of this es-align"),
    ],
)
def test_a_folder_that_is_no_run_is_told_in_one_paragraph(
    tmp_path: Path, content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    answer = run_top(str(tmp_path))
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: ") and told in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_neither_torch_nor_ray_is_imported(begin: Callable[..., RunFolder]) -> None:
    folder = begin(ROWS, WORKERS)
    program = (
        "import sys; from es_align.cli import app; "
        f"app(['top', {str(folder.path)!r}, '--once'], standalone_mode=False); "
        "print(sorted({'torch', 'ray', 'transformers', 'vllm', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert answer.stdout.splitlines()[-1] == "[]"
