"""Several files of an output are uploaded at once; the first failure stops the others."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier
from typing import Any, cast

import pytest

from enginefarm.contract.digest import Digest, of_bytes
from enginefarm.contract.errors import StoreUnavailable
from enginefarm.contract.manifest import FileEntry
from models.store import Store
from workers.stage.uploads import FILES_AT_ONCE, upload_files


def entry(number: int) -> FileEntry:
    return FileEntry(path=f"rank{number}.engine", digest=of_bytes(b"%d" % number), size=number + 1)


class MeetingStore:
    """A put returns once FILES_AT_ONCE of them run."""

    def __init__(self) -> None:
        self.put_digests: list[tuple[Digest, bool]] = []
        self._meeting = Barrier(FILES_AT_ONCE, timeout=20)

    def put(self, _: Path, digest: Digest, *__: Any, anew: bool) -> None:
        self._meeting.wait()
        self.put_digests.append((digest, anew))


def test_files_are_uploaded_at_once_and_the_same_bytes_once(tmp_path: Path) -> None:
    store = MeetingStore()
    entries = [entry(number) for number in range(FILES_AT_ONCE)]
    copy = entries[0].model_copy(update={"path": "copy"})
    damaged = entries[1].digest
    upload_files(cast(Store, store), tmp_path, [*entries, copy], anew={damaged}, keep_going=lambda: None)
    assert sorted(store.put_digests) == sorted((item.digest, item.digest == damaged) for item in entries)


class FailingStore:
    """The put of the largest file fails once FILES_AT_ONCE run; the others last until their watch stops them."""

    def __init__(self, largest: Digest) -> None:
        self.stopped = 0
        self.begun = 0
        self._largest = largest
        self._meeting = Barrier(FILES_AT_ONCE, timeout=20)

    def put(self, _: Path, digest: Digest, __: int, watch: Any, *, anew: bool) -> None:
        self.begun += 1
        self._meeting.wait()
        if digest == self._largest:
            raise StoreUnavailable("the store is full")
        try:
            while True:
                watch(0)
        except BaseException:
            self.stopped += 1
            raise


def test_the_first_failure_stops_the_other_files(tmp_path: Path) -> None:
    entries = [entry(number) for number in range(9)]
    store = FailingStore(entries[-1].digest)
    with pytest.raises(StoreUnavailable, match="the store is full"):
        upload_files(cast(Store, store), tmp_path, entries, anew=(), keep_going=lambda: None)
    assert (store.begun, store.stopped) == (FILES_AT_ONCE, FILES_AT_ONCE - 1)
