"""Objects in a shared folder and in stores behind fsspec, some of them faulty."""

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from es_align import object_store
from es_align.errors import ConfigError, StorageError
from es_align.object_store import CHECK_OBJECT, ObjectStore, check_url
from es_align.preflight import validate


class Faulty(MemoryFileSystem):
    """A store in memory whose calls fail, hang, or take an exclusive write for any other."""

    protocol = "faulty"
    store: dict = {}  # noqa: RUF012 (as fsspec has it)
    pseudo_dirs = [""]  # noqa: RUF012
    num_failures = 0
    error: Exception = PermissionError("Access Denied")
    is_exclusive = True
    hangs_until: threading.Event | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs) -> None:
        if Faulty.hangs_until is not None:
            Faulty.hangs_until.wait()
        if Faulty.num_failures:
            Faulty.num_failures -= 1
            raise Faulty.error
        super().pipe_file(path, value, mode if Faulty.is_exclusive else "overwrite", **kwargs)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    """A faulty store without faults, and little patience."""
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    for name, value in (
        ("store", {}),
        ("pseudo_dirs", [""]),
        ("num_failures", 0),
        ("error", PermissionError("Access Denied")),
        ("is_exclusive", True),
        ("hangs_until", None),
    ):
        monkeypatch.setattr(Faulty, name, value)
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(object_store, "CHECK_PATIENCE_S", 0.2)
    monkeypatch.setattr(object_store, "PATIENCE_S", 0.2)
    yield Faulty


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    place = tmp_path / "store" if request.param == "file" else f"/{uuid.uuid4().hex}"
    return ObjectStore(f"{request.param}://{place}", print)


def test_objects_read_back(store: ObjectStore) -> None:
    store.put("a/b/one.json", b"1")
    store.put("a/b/one.json", b"12")
    store.put("a/two.json", b"")
    assert store.read("a/b/one.json") == b"12"
    assert store.read_all(["a/two.json", "a/b/one.json"]) == [b"", b"12"]
    assert store.sizes("a") == {"two.json": 0} and store.sizes("a/b") == {"one.json": 2}
    assert store.sizes("c") == {}
    assert store.has("a/two.json") and not store.has("a/one.json")


def test_what_is_there_is_not_created_again(store: ObjectStore) -> None:
    assert store.create("ledger/000000.json", b"first")
    assert not store.create("ledger/000000.json", b"second")
    assert store.read("ledger/000000.json") == b"first"


def test_of_many_that_create_one_at_once_one_does(tmp_path: Path) -> None:
    store = ObjectStore(f"file://{tmp_path}/store", print)
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        return store.create("one", bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(create, range(8)))
    assert sum(created) == 1
    assert store.read("one") == bytes([created.index(True)]) * 100_000
    assert {file.name for file in (tmp_path / "store").iterdir()} == {CHECK_OBJECT, "one"}


def test_a_folder_without_hard_links_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    store = ObjectStore(f"file://{tmp_path}/store", print)
    assert store.create("one", b"first") and not store.create("one", b"second")
    assert store.read("one") == b"first"


def test_a_draft_that_a_kill_left_is_no_object(tmp_path: Path) -> None:
    store = ObjectStore(f"file://{tmp_path}/store", print)
    store.put("ledger/000000.json", b"1")
    (tmp_path / "store/ledger/.000001.json.ab12.draft").write_bytes(b"half")
    assert store.sizes("ledger") == {"000000.json": 1}


def test_a_store_that_ignores_exclusive_writes_is_looked_at_first(faulty: type[Faulty]) -> None:
    faulty.is_exclusive = False
    store = ObjectStore("faulty://bucket/run", print)
    assert store.create("one", b"first") and not store.create("one", b"second")
    assert store.read("one") == b"first"


def test_failures_that_pass_are_told_once_and_tried_again(faulty: type[Faulty]) -> None:
    notes: list[str] = []
    store = ObjectStore("faulty://bucket/run", notes.append)
    faulty.num_failures = 3
    assert store.create("one", b"first")
    assert store.read("one") == b"first" and faulty.num_failures == 0
    assert notes == [
        "mirror=faulty://bucket/run: could not store one (PermissionError: Access Denied); "
        "trying again for 0.2 s"
    ]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Access Denied"),
        FileNotFoundError("The specified bucket\n does not exist"),
        RuntimeError("what a library has of its own"),
    ],
)
def test_failures_that_stay_end_in_one_error(faulty: type[Faulty], error: Exception) -> None:
    store = ObjectStore("faulty://bucket/run", print)
    store.advice = "go on with --resume"
    faulty.num_failures, faulty.error = 10**6, error
    words = " ".join(str(error).split())
    with pytest.raises(StorageError) as told:
        store.put("one", b"first")
    assert str(told.value) == (
        f"mirror=faulty://bucket/run: could not store one ({type(error).__name__}: {words}), "
        "tried for 0.2 s; go on with --resume"
    )


def test_an_answer_that_never_comes_is_an_error(
    faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore("faulty://bucket/run", print)
    monkeypatch.setattr(object_store, "CALL_LIMIT_S", 0.05)
    faulty.hangs_until = threading.Event()
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"could not store one \(TimeoutError"):
        store.put("one", b"first")
    assert time.monotonic() - started < 5
    faulty.hangs_until.set()


def test_an_exclusive_write_whose_answer_was_lost_is_there(
    faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore("faulty://bucket/run", print)
    write = MemoryFileSystem.pipe_file

    def write_and_fail(self: Faulty, path: str, value: bytes, mode: str = "") -> None:
        write(self, path, value, mode)
        raise ConnectionResetError("no answer")

    monkeypatch.setattr(Faulty, "pipe_file", write_and_fail)
    assert not store.create("one", b"first")
    assert store.read("one") == b"first"


def test_a_share_that_went_away_is_not_written_beneath(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    store = ObjectStore(f"file://{tmp_path}/store", print)
    shutil.rmtree(tmp_path / "store")
    for call in (
        lambda: store.put("ledger/000000.json", b"1"),
        lambda: store.has("one"),
        lambda: store.sizes("a"),
    ):
        with pytest.raises(StorageError, match="FileNotFoundError"):
            call()
    assert not (tmp_path / "store").exists()


def test_a_place_that_cannot_be_opened_is_told_at_once(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    with pytest.raises(StorageError, match=r"could not open it .*check the address"):
        ObjectStore(f"file://{tmp_path}/not-mounted/store", print)
    assert list(tmp_path.iterdir()) == []
    faulty.num_failures = 10**6
    with pytest.raises(StorageError, match=r"could not store write-check.txt .*check the address"):
        ObjectStore("faulty://bucket/run", print)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("/nfs/run", r"mirror=/nfs/run is no URL of a place; write s3://bucket/run, file:///nfs"),
        ("s3://", "is no URL of a place"),
        ("simplecache::s3://bucket/run", "is no URL of a place"),
        ("file://nfs/run", r"is relative; write file:/// and the whole path"),
        ("s4://bucket/run", r"fsspec knows no protocol 's4'; use file, s3, gs, abfs"),
    ],
)
def test_a_url_that_names_no_place_is_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_url(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"mirror=sftp://\.\.\. holds a password") as told:
        check_url("sftp://me:hunter2@host/run")
    assert "hunter2" not in str(told.value)


def test_a_missing_package_is_named_before_a_run(
    tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"class": "no_such_package.FileSystem", "err": "Install it"}
    monkeypatch.setitem(known_implementations, "nowhere", entry)
    config = tiny_config.model_copy(update={"mirror": "nowhere://bucket/run"})
    with pytest.raises(ConfigError, match="run `pip install no_such_package`"):
        validate(config)
    validate(config, is_trained=False)  # evaluating a run needs no mirror
