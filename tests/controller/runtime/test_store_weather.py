"""What becomes of records when the disk below them is full, read-only or damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from controller.core.job import Job, JobState, Reason
from controller.core.turn import Entry
from controller.runtime import lease
from controller.runtime.lease import Holder
from controller.runtime.store import JobQuery, JobRow, Store
from controller.runtime.store_failure import StoreFailed
from protos import faults
from tests.controller.core.world import spec
from tests.small_disk import fill, small_disk

FRAME_BYTES = 4096 + 24
"""Of a write-ahead log: a page and its header."""


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{path}")
    try:
        store.verify()
        store.migrate()
        yield store
    finally:
        store.close()


def commit(store: Store, number: int) -> None:
    """One decision, in three tables' worth of rows that belong together."""
    job = Job(str(number), spec(), JobState.PENDING, Reason("Why", "because"), created_at=number)
    document = {"id": job.id, "reason": {"code": "Why", "message": "because"}}
    entries = [Entry("job.submitted", f"{number} " + "x" * 3000, job.id) for _ in range(3)]
    store.commit(5.0, [JobRow(job, document)], entries, {})


def on_record(store: Store) -> list[int]:
    """Decisions, oldest first. All of each is there."""
    jobs = [int(document["id"]) for document in store.list_jobs(JobQuery(page_size=500))[0]][::-1]
    told = [int(event["job_id"]) for event in store.events(0, 9999)]
    assert told == [job for job in jobs for _ in range(3)]
    return jobs


@pytest.fixture
def mounted(tmp_path: pathlib.Path) -> Iterator[Callable[..., pathlib.Path]]:
    """mounted(options) is a small file system in memory."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "mounted"
        yield lambda options: stack.enter_context(small_disk(folder, options))


def test_full_disk_keeps_all_of_a_decision_or_nothing_and_goes_on_with_room(mounted) -> None:
    folder = mounted("size=4m")
    with opened(folder / "store.db") as store:
        commit(store, 0)
        ballast, kept = fill(folder), 0
        with pytest.raises(StoreFailed) as failed:
            for number in range(1, 2000):
                commit(store, number)
                kept = number
        said = str(failed.value)
        assert f"{folder / 'store.db'} has no room: " in said and "make room and start" in said
        assert on_record(store) == list(range(kept + 1))
        ballast.unlink()
        commit(store, kept + 1)
    with opened(folder / "store.db") as again:
        assert on_record(again) == list(range(kept + 2))


def test_full_disk_at_the_start_says_so(mounted) -> None:
    folder = mounted("size=1m")
    fill(folder)
    refused = pytest.raises(StoreFailed, match=r"has no room: \d+ bytes are free")
    with refused, opened(folder / "store.db"):
        pass


def test_read_only_disk_is_named_with_the_remedy(mounted) -> None:
    folder = mounted("size=1m")
    with opened(folder / "store.db"):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    refused = pytest.raises(StoreFailed, match=r"store\.db may only be read; mount .* for writing")
    with refused, opened(folder / "store.db") as store:
        commit(store, 1)
    me = Holder.this_process("http://h:1", "h:2")
    with pytest.raises(OSError, match=r"cannot be written and locked: Read-only file system"):
        lease.take(folder / lease.NAME, me)


def test_what_the_system_refuses_is_told_as_what_sqlite_does(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path / "store.db") as store:
        monkeypatch.setattr(faults, "at", full)
        with pytest.raises(StoreFailed, match=r"store\.db has no room: \d+ bytes .* No space left"):
            commit(store, 0)
        assert on_record(store) == []


@pytest.fixture
def crashed(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files of ten decisions, the last nine in the log, as a killed process leaves them."""
    (tmp_path / "alive").mkdir()
    (tmp_path / "dead").mkdir()
    path = tmp_path / "alive" / "store.db"
    with opened(path) as store:
        commit(store, 0)
    with opened(path) as store:
        for number in range(1, 10):
            commit(store, number)
        for file in path.parent.iterdir():
            shutil.copy(file, tmp_path / "dead")
    return tmp_path / "dead" / "store.db"


def cut(file: pathlib.Path, by: int) -> None:
    os.truncate(file, file.stat().st_size - by)


def overwrite(file: pathlib.Path, by: int) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(-by, os.SEEK_END)
        opened_file.write(random.Random(0).randbytes(by))


def test_log_of_a_killed_process_is_complete(crashed: pathlib.Path) -> None:
    with opened(crashed) as store:
        assert on_record(store) == list(range(10))


@pytest.mark.parametrize("harm", [cut, overwrite])
@pytest.mark.parametrize("by", [1, 4096, FRAME_BYTES, 9 * FRAME_BYTES + 5])
def test_torn_log_loses_the_last_decisions_alone_and_each_as_a_whole(
    crashed: pathlib.Path, harm: Callable[[pathlib.Path, int], None], by: int
) -> None:
    harm(crashed.with_name("store.db-wal"), by)
    with opened(crashed) as store:
        kept = on_record(store)
        assert kept == list(range(len(kept))) and 1 <= len(kept) < 10
        commit(store, len(kept))
    with opened(crashed) as again:
        assert on_record(again) == list(range(len(kept) + 1))


def test_log_that_is_gone_loses_what_was_in_it(crashed: pathlib.Path) -> None:
    crashed.with_name("store.db-wal").write_bytes(b"")
    with opened(crashed) as store:
        assert on_record(store) == [0]


@pytest.mark.parametrize(
    ("harm", "by"),
    [(cut, 100), (cut, 4096), (cut, 5 * 4096), (overwrite, 4096), (overwrite, 5 * 4096)],
)
def test_damaged_database_is_refused_at_the_start_with_the_remedy(
    crashed: pathlib.Path, harm: Callable[[pathlib.Path, int], None], by: int
) -> None:
    with opened(crashed):
        pass
    assert not crashed.with_name("store.db-wal").exists()
    harm(crashed, by)
    refused = pytest.raises(StoreFailed, match=f"{crashed} is damaged; move .*sqlite3 .* .recover")
    with refused, opened(crashed):
        pass


def test_file_that_is_no_database_is_refused_with_the_remedy(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(random.Random(0).randbytes(8192))
    with pytest.raises(StoreFailed, match="is damaged"), opened(path):
        pass


def test_database_that_was_moved_away_takes_no_more_decisions(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    with opened(path) as store:
        commit(store, 0)
        path.rename(tmp_path / "elsewhere.db")
        with pytest.raises(StoreFailed, match=f"{path} was moved, deleted or replaced"):
            commit(store, 1)
