"""A run that is stored elsewhere as it goes, and goes on from there: the same ledger whatever is
lost, and never two drivers at once.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias

import pytest

from es_align import mirror_layout, object_store, session, train
from es_align.config import Config
from es_align.config_loading import apply_overrides, changed_fields, config_digest, load_config
from es_align.errors import LedgerError, RunFolderError, StorageError
from es_align.ledger import Ledger, LedgerHeader, LedgerRecord
from es_align.mirror import Mirror
from es_align.mirror_layout import Stored
from es_align.mirror_restore import restore
from es_align.object_store import ObjectStore
from es_align.progress import SilentReporter
from es_align.run_folder import RunFolder

Here: TypeAlias = Callable[[], AbstractContextManager[None]]

TINY = Path(__file__).resolve().parent.parent / "configs" / "tiny.yaml"
SMALL = (
    "generations=4",
    "evaluation.every=2",
    "checkpoint_every=2",
    "evaluation.bootstrap_samples=100",
)
KILL_DEADLINE_S = 240


class Killed(BaseException):
    """What a test raises in the place of a kill; nothing catches it."""


class Work:
    """A run folder and its mirror, with generations made up in place of a model's."""

    def __init__(self, path: Path, url: str) -> None:
        self.folder = RunFolder(path)
        self.notes: list[str] = []
        self.stored = Stored(ObjectStore(url, self.notes.append))
        self.mirror = Mirror(self.stored, self.folder)
        self.locked = ExitStack()

    def begin(self, run_id: str = "one") -> "Work":
        """What `begin_run` writes, and the mirror of it."""
        path = self.folder.path
        (path / "rewards/lib").mkdir(parents=True)
        for name in ("config.json", "prompt.json", "basis.safetensors", "rewards/lib/own.py"):
            (path / name).write_text(f"{name} of {run_id}")
        header = LedgerHeader(run_id, "c" * 64, 0, 2, "b" * 64, "d" * 64, {"numpy": "2.4"})
        self.ledger = self.locked.enter_context(Ledger.create(self.folder.ledger, header))
        self.add_rows(0, 1)
        self.mirror.attach(header)
        return self

    def resume(self) -> "Work":
        """What `resume_run` does with the folder, and the mirror of it."""
        restore(self.stored, self.folder, self.notes.append)
        self.open()
        self.folder.drop_rows_after(self.ledger.next_generation)
        self.mirror.attach(self.ledger.header)
        return self

    def open(self) -> None:
        """Lock the ledger."""
        self.ledger = self.locked.enter_context(Ledger.open(self.folder.ledger, for_append=True))

    def go_on(self, num_generations: int, *, wall_s: float = 1.0) -> "Work":
        """More generations, each stored."""
        for _ in range(num_generations):
            self.record(wall_s=wall_s)
            self.mirror.store()
        return self

    def record(self, *, fitness: float = 0.25, wall_s: float = 1.0) -> None:
        """A generation in the folder alone."""
        generation = self.ledger.next_generation
        self.add_rows(generation + 1, wall_s)
        numbers = (fitness, generation / 3)
        self.ledger.append(
            LedgerRecord(generation, 0, 0.1, 0.2, ("a", "b"), numbers, numbers, 0, "e" * 64)
        )

    def add_rows(self, generation: int, wall_s: float) -> None:
        row = {"generation": generation, "wall_s": wall_s}
        self.folder.append_rows(self.folder.metrics, [row])
        self.folder.append_rows(self.folder.samples, [{**row, "member": m} for m in (0, 1)])

    def objects(self) -> dict[str, bytes]:
        """What a mirror in a folder holds, by name."""
        root = Path(self.stored.store.url.removeprefix("file://"))
        files = [file for file in root.rglob("*") if file.is_file()]
        return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Work]:
    """Makes a folder by its name, all with one mirror; whoever had it before is gone."""
    made: list[Work] = []

    def make(name: str = "run", *, mirror: str = "mirror") -> Work:
        for other in made:
            other.locked.close()
        made.append(Work(tmp_path / name, f"file://{tmp_path}/{mirror}"))
        return made[-1]

    return make


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(object_store, "CHECK_PATIENCE_S", 0.05)
    monkeypatch.setattr(object_store, "PATIENCE_S", 0.05)


def kill_at(patch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """The driver's machine is gone at a method's call of this number, from 1."""
    real, calls = getattr(owner, name), iter(range(1, 1000))

    def killed(*given: object, **named: object) -> object:
        if next(calls) == call:
            raise Killed
        return real(*given, **named)

    patch.setattr(owner, name, killed)


def contents(path: Path) -> dict[str, bytes]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def test_every_line_is_an_object_of_its_own(work: Callable[..., Work]) -> None:
    run = work().begin().go_on(2)
    run.add_rows(2, 5.0)
    run.mirror.store()
    objects = run.objects()
    assert sorted(objects) == [
        "drivers/000000.json",
        "files/one/basis.safetensors",
        "files/one/config.json",
        "files/one/manifest.json",
        "files/one/prompt.json",
        "files/one/rewards/lib/own.py",
        "ledger/000000.json",
        "ledger/000001.json",
        "ledger/000002.json",
        "rows/one/metrics/000000.json",
        "rows/one/metrics/000001.json",
        "rows/one/metrics/000002.json",
        "rows/one/samples/000000.json",
        "rows/one/samples/000001.json",
        "rows/one/samples/000002.json",
        "write-check.txt",
    ]
    for place, file in (
        ("ledger/", run.folder.ledger),
        ("rows/one/metrics/", run.folder.metrics),
        ("rows/one/samples/", run.folder.samples),
    ):
        parts = [objects[name] for name in sorted(objects) if name.startswith(place)]
        assert b"".join(parts) == file.read_bytes()
    assert objects["rows/one/metrics/000002.json"].count(b"\n") == 2


def test_a_lost_folder_is_restored_whole(work: Callable[..., Work]) -> None:
    lost = work().begin().go_on(3)
    expected = contents(lost.folder.path)
    shutil.rmtree(lost.folder.path)
    found = work("elsewhere")
    restore(found.stored, found.folder, found.notes.append)
    restored = contents(found.folder.path)
    assert restored.pop("evaluations.jsonl") == restored.pop("workers.jsonl") == b""
    assert restored == expected
    assert "restored 3 generations from mirror=file://" in found.notes[0]
    assert f"process {os.getpid()} on " in found.notes[0]


def test_a_restore_that_was_killed_is_done_again(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = work().begin().go_on(3).folder.ledger.read_bytes()
    found = work("elsewhere")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, Ledger, "append", 2)
        restore(found.stored, found.folder, print)
    again = work("elsewhere").resume()
    assert again.folder.ledger.read_bytes() == expected
    assert len(again.folder.read_rows(again.folder.metrics)) == 4


def test_a_folder_that_is_behind_catches_up(work: Callable[..., Work], tmp_path: Path) -> None:
    work().begin().go_on(1)
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    expected = work().resume().go_on(3, wall_s=2.0).folder
    old = work("old").resume()
    assert old.folder.ledger.read_bytes() == expected.ledger.read_bytes()
    assert old.folder.metrics.read_bytes() == expected.metrics.read_bytes()


def test_a_kill_before_the_mirror_has_the_line_loses_nothing(work: Callable[..., Work]) -> None:
    """The folder is one generation ahead: the line is stored before the run goes on."""
    run = work().begin().go_on(1)
    run.record()
    assert "ledger/000002.json" not in run.objects()
    resumed = work().resume()
    assert (
        resumed.objects()["ledger/000002.json"]
        == run.folder.ledger.read_bytes().splitlines(keepends=True)[2]
    )
    assert len(resumed.folder.read_rows(resumed.folder.metrics)) == 3


def test_rows_of_a_generation_that_runs_again_are_not_doubled(work: Callable[..., Work]) -> None:
    """Killed after the rows and before the line were stored, then resumed elsewhere."""
    run = work().begin().go_on(1)
    run.record(wall_s=1234.5)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, Mirror, "_store_line", 1)
        run.mirror.store()
    assert "rows/one/metrics/000002.json" in run.objects()
    found = work("elsewhere")
    restore(found.stored, found.folder, print)
    assert len(found.folder.read_rows(found.folder.metrics)) == 2
    found.resume()
    assert found.ledger.next_generation == 1
    found.go_on(2, wall_s=2.0)
    last = work("third").resume().folder
    walls = [row["wall_s"] for row in last.read_rows(last.metrics)]
    assert walls == [1, 1.0, 2.0, 2.0]
    assert last.ledger.read_bytes() == found.folder.ledger.read_bytes()


def test_what_is_stored_is_not_stored_again_at_a_resume(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    work().begin().go_on(5)
    written: list[str] = []
    write = object_store.SharedFolder.write

    def count(place: object_store.SharedFolder, name: str, *given: object, is_new: bool) -> None:
        written.append(name)
        write(place, name, *given, is_new=is_new)  # type: ignore[arg-type]

    monkeypatch.setattr(object_store.SharedFolder, "write", count)
    run = work().resume()
    assert [name for name in written if name != "write-check.txt"] == ["drivers/000001.json"]
    written.clear()
    run.go_on(1)
    assert written == [
        "rows/one/metrics/000006.json",
        "rows/one/samples/000006.json",
        "ledger/000006.json",
    ]


def test_a_run_begun_without_a_mirror_can_have_one(work: Callable[..., Work]) -> None:
    run = work().begin().go_on(3)
    expected = run.objects()
    other = work(mirror="second").resume().objects()
    assert other.keys() == expected.keys()
    assert all(other[name] == expected[name] for name in other if "drivers" not in name)


def test_two_runs_do_not_share_a_mirror(work: Callable[..., Work]) -> None:
    work("first").begin().go_on(1)
    second = work("second", mirror="other").begin("two").go_on(1)
    assert second.ledger.header.run_id == "two"
    with pytest.raises(RunFolderError, match=r"second holds run two, mirror=.* holds run one"):
        work("second").resume()
    with pytest.raises(
        RunFolderError, match=r"already holds run one with 1 generations, last written by process"
    ):
        work("third").mirror.check_new()


def test_only_the_folder_s_own_start_without_a_generation_is_replaced(
    work: Callable[..., Work],
) -> None:
    run = work().begin()
    with pytest.raises(RunFolderError, match="already holds run one with 0 generations"):
        work("elsewhere").mirror.check_new()
    again = work()
    again.mirror.check_new()
    shutil.rmtree(again.folder.path)  # as `begin_run` does with the files one by one
    again.begin("two").go_on(1)
    found = work("elsewhere").resume()
    assert found.ledger.header.run_id == "two"
    assert (found.folder.path / "config.json").read_text() == "config.json of two"
    with pytest.raises(RunFolderError, match="it took this driver for lost"):
        run.mirror.store()


def test_a_line_that_differs_is_named(work: Callable[..., Work], tmp_path: Path) -> None:
    work().begin().go_on(2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    work().resume().go_on(2)
    copy = work("copy", mirror="none")
    copy.open()
    copy.record(fitness=0.75)
    copy.record()
    with pytest.raises(
        RunFolderError, match=r"copy and mirror=.* disagree about generation 3: two drivers"
    ):
        work("copy").resume()


def test_the_driver_that_was_taken_for_lost_stops(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    lost = work().begin().go_on(2)
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    other = Work(tmp_path / "elsewhere", f"file://{tmp_path}/mirror").resume()
    lost.record(fitness=0.75)  # not stored any more
    with pytest.raises(RunFolderError) as told:
        lost.mirror.store()
    assert f"is written by process {os.getpid()} on " in str(told.value)
    assert f"({tmp_path}/elsewhere, since 2" in str(told.value)
    assert "it took this driver for lost and went on. This driver stops" in str(told.value)
    other.go_on(1)
    assert other.objects()["ledger/000003.json"] in other.folder.ledger.read_bytes()


def test_the_line_of_another_driver_is_kept(work: Callable[..., Work], tmp_path: Path) -> None:
    """Even if the other one did not say that it is there."""
    run = work().begin().go_on(1)
    other = Work(tmp_path / "elsewhere", f"file://{tmp_path}/mirror").resume()
    (tmp_path / "mirror/drivers/000001.json").unlink()
    other.go_on(1)
    run.record()
    run.mirror.store()  # the same bits: nothing to argue about
    other.go_on(1)
    run.record(fitness=0.75)
    with pytest.raises(RunFolderError, match=r"written by .*: it has another generation 3\. This"):
        run.mirror.store()
    assert run.objects()["ledger/000003.json"] in other.folder.ledger.read_bytes()


def test_a_driver_that_goes_on_while_another_starts_is_noticed(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    run = work().begin().go_on(1)
    other = Work(tmp_path / "elsewhere", f"file://{tmp_path}/mirror")
    restore(other.stored, other.folder, print)
    run.go_on(1)  # while the other one loads its model
    other.open()
    with pytest.raises(RunFolderError, match=r"/run, since .*it has done 1 more generations"):
        other.mirror.attach(other.ledger.header)
    run.go_on(1)
    assert sorted(run.objects())[0:2] == ["drivers/000000.json", "files/one/basis.safetensors"]


def test_of_two_that_take_over_at_once_one_does(
    work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work().begin().go_on(1)
    first = Work(tmp_path / "first", f"file://{tmp_path}/mirror").resume()
    first.go_on(1)
    second = Work(tmp_path / "second", f"file://{tmp_path}/mirror")
    restore(second.stored, second.folder, print)
    real, looks = Stored.last_driver, iter([0])  # the second one looked a moment earlier
    monkeypatch.setattr(Stored, "last_driver", lambda stored: next(looks, real(stored)))
    second.open()
    with pytest.raises(RunFolderError, match=r"first, since .*it started at the same moment"):
        second.mirror.attach(second.ledger.header)


@pytest.mark.parametrize(
    ("name", "harm", "error", "told"),
    [
        ("ledger/000001.json", "change", LedgerError, r"mirror=.*: ledger line 2 is damaged"),
        ("ledger/000000.json", "change", LedgerError, r"mirror=.*: ledger line 1 is damaged"),
        ("ledger/000001.json", "remove", LedgerError, r"000001.json is missing and .*000003.json"),
        ("files/one/basis.safetensors", "change", LedgerError, "is not what manifest.json says"),
        ("files/one/prompt.json", "remove", StorageError, r"could not read files/one/prompt.json"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_damaged_mirror_is_told(
    work: Callable[..., Work], tmp_path: Path, name: str, harm: str, error: type, told: str
) -> None:
    work().begin().go_on(3)
    file = tmp_path / "mirror" / name
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes().replace(b"a", b"A", 1))
    with pytest.raises(error, match=told):
        work("elsewhere").resume()
    assert not (tmp_path / "elsewhere/ledger.jsonl").exists()


def test_a_mirror_writes_nowhere_but_in_the_folder(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    run = work().begin().go_on(1)
    store = run.stored.store
    content = b"import os"
    digest = "de2abade832c8e350a1bdc98cfcdb1e202ac4749c5fc51a4a970d41736b6df5c"
    store.put("files/evil.py", content)
    store.put("files/one/manifest.json", json.dumps({"../evil.py": digest}).encode())
    with pytest.raises(LedgerError, match=r"evil.py is not what manifest.json says"):
        work("elsewhere").resume()
    assert not (tmp_path / "evil.py").exists()


def test_a_last_line_cut_short_in_a_simple_store_is_written_again(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    run = work().begin().go_on(2)
    file = tmp_path / "mirror/ledger/000002.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    found = work("elsewhere").resume()
    assert found.ledger.next_generation == 1
    found.go_on(1)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:100])
    assert work().resume().folder.ledger.read_bytes() == run.folder.ledger.read_bytes()
    assert file.read_bytes() == whole


def test_a_header_cut_short_in_a_simple_store_is_no_run(work: Callable[..., Work]) -> None:
    header = work().begin().go_on(1).folder.ledger.read_bytes().splitlines(keepends=True)[0]
    other = work(mirror="second")
    other.stored.store.put("ledger/000000.json", header[:100])
    other.mirror.check_new()
    assert other.resume().objects()["ledger/000000.json"] == header


@pytest.mark.usefixtures("impatient")
def test_a_mirror_that_takes_no_more_stops_the_run_and_the_folder_has_it_all(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    run = work().begin().go_on(1)
    (tmp_path / "mirror").rename(tmp_path / "unmounted")
    with pytest.raises(StorageError) as told:
        run.go_on(1)
    assert f"every finished generation is safe in {tmp_path}/run: make the mirror reach" in str(
        told.value
    )
    assert "go on with --resume; or without it, by --resume --set mirror=" in str(told.value)
    assert run.ledger.next_generation == 2
    (tmp_path / "unmounted").rename(tmp_path / "mirror")
    resumed = work().resume()
    assert resumed.ledger.next_generation == 2
    assert "ledger/000002.json" in resumed.objects()


def test_neither_a_folder_nor_a_mirror_is_no_run(work: Callable[..., Work]) -> None:
    with pytest.raises(RunFolderError, match=r"neither .*run nor mirror=.*holds a run to resume"):
        work().resume()


def test_a_restore_leaves_a_folder_of_something_else_alone(
    work: Callable[..., Work], tmp_path: Path
) -> None:
    work().begin().go_on(1)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("all of it")
    with pytest.raises(RunFolderError, match=r"papers is not empty \(it holds thesis.txt\)"):
        work("papers").resume()


def test_the_mirror_is_no_part_of_what_a_run_is(tiny_config: Config) -> None:
    other = tiny_config.model_copy(update={"mirror": "file:///nfs/run"})
    assert changed_fields(tiny_config, other) == {}
    assert config_digest(tiny_config) == config_digest(other)


# Whole runs of the tiny model.


@pytest.fixture
def config(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four generations; every run has the same id, so that ledgers are the same byte for byte."""
    same = SimpleNamespace(uuid4=lambda: uuid.UUID(int=7))
    monkeypatch.setattr(session, "uuid", same)
    return apply_overrides(tiny_config, SMALL)


@pytest.mark.slow
def test_a_lost_machine_loses_nothing(
    config: Config, tmp_path: Path, workers_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost at four moments in a row, each time with its disk, at another place each time."""
    with workers_here():
        expected = train(config, run_dir=tmp_path / "undisturbed")
        mirrored = config.model_copy(update={"mirror": f"file://{tmp_path}/mirror"})
        run_dir = tmp_path / "machine-0"
        for number, (owner, name, call) in enumerate(
            [
                (Mirror, "_store_line", 2),  # of generation 1: the folder alone has it
                (Ledger, "append", 2),  # of generation 2, after its rows
                (Mirror, "_store_rows", 10),  # of generation 3, of which there is nothing yet
                (session.Run, "record_evaluation", 1),  # after generation 4
            ]
        ):
            run_dir = tmp_path / f"machine-{number}"
            with monkeypatch.context() as patch, pytest.raises(Killed):
                kill_at(patch, owner, name, call)
                train(mirrored, run_dir=run_dir, resume=number > 0)
            Ledger.open(run_dir / "ledger.jsonl").close()
            shutil.rmtree(run_dir)
        result = train(mirrored, run_dir=tmp_path / "last", resume=True)
    undisturbed, last = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "last")
    assert last.ledger.read_bytes() == undisturbed.ledger.read_bytes()
    assert last.evaluations.read_bytes() == undisturbed.evaluations.read_bytes()
    assert last.samples.read_bytes() == undisturbed.samples.read_bytes()
    weights = "adapter_model.safetensors"
    assert (last.adapter / weights).read_bytes() == (undisturbed.adapter / weights).read_bytes()
    assert (result.completions, result.tokens) == (expected.completions, expected.tokens)
    objects = contents(tmp_path / "mirror")
    lines = [objects[name] for name in sorted(objects) if name.startswith("ledger/")]
    assert b"".join(lines) == last.ledger.read_bytes()
    end = {name for name in objects if name.startswith("end/")}
    assert {Path(name).name for name in end} >= {weights, "reward_over_generations.png"}


@pytest.mark.slow
def test_a_mirror_is_left_out_only_aloud(
    config: Config, tmp_path: Path, workers_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    reporter, url = SilentReporter(), f"file://{tmp_path}/mirror"
    monkeypatch.setattr(reporter, "note", notes.append)
    short = apply_overrides(config, ["generations=1"])
    with workers_here():
        train(short.model_copy(update={"mirror": url}), run_dir=tmp_path / "run")
        train(config, run_dir=tmp_path / "run", resume=True, reporter=reporter)
    assert f"warning: not mirrored any more; --set mirror={url} goes on with it" in notes
    assert len(list((tmp_path / "mirror/ledger").iterdir())) == 2


DRIVER = """
import sys
from pathlib import Path
from es_align import load_config, train
from local_pool import workers_in_this_process

config = load_config(Path(sys.argv[1]), sys.argv[3:])
with workers_in_this_process():
    train(config, run_dir=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_killed_with_its_disk_goes_on_elsewhere(
    tmp_path: Path, workers_here: Here, repository: Path
) -> None:
    """SIGKILL at some moment after the second generation."""
    overrides = ["generations=40", f"mirror=file://{tmp_path}/mirror"]
    paths = os.pathsep.join([str(repository), str(repository / "tests/support")])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(TINY), str(tmp_path / "lost"), *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        second = tmp_path / "mirror" / mirror_layout.line_name(2)
        end = time.monotonic() + KILL_DEADLINE_S
        while not second.is_file():
            assert time.monotonic() < end and driver.poll() is None
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    shutil.rmtree(tmp_path / "lost")
    num_stored = len(list((tmp_path / "mirror/ledger").glob("[0-9]*.json"))) - 1
    assert 2 <= num_stored < 40
    config = load_config(TINY, overrides)
    with workers_here():
        train(load_config(TINY, overrides[:1]), run_dir=tmp_path / "straight")
        train(config, run_dir=tmp_path / "found", resume=True)
    with (
        Ledger.open(tmp_path / "found/ledger.jsonl") as found,
        Ledger.open(tmp_path / "straight/ledger.jsonl") as straight,
    ):
        assert found.records == straight.records
        assert found.next_generation == 40
