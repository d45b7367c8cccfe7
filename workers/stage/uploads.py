"""Upload the files of an output, several at once: one connection seldom fills a network, nor one small file any."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from enginefarm.contract.digest import Digest, Watch
from enginefarm.contract.manifest import FileEntry
from models.store import Store

FILES_AT_ONCE = 3  # their parts share the store's buffers, so memory does not grow with this number


class _UploadStopped(Exception):
    """Another file failed; this one has no news of its own."""


class FileUploads:
    """Uploads of files below one folder.

    Args:
        watch: may raise to stop all of them. Called from several threads.
    """

    def __init__(self, store: Store, folder: Path, watch: Watch) -> None:
        self._store = store
        self._folder = folder
        self._watch = watch
        self._failed = Event()

    def run(self, files: Sequence[FileEntry], anew: Collection[Digest]) -> None:
        """Upload the files that the store lacks, and those of `anew` whether it has them or not.

        Raises:
            Exception: the first failure of a file, which stops the others.
        """
        # Two files with the same bytes are one blob: two uploads of it at once would only disturb each other.
        one_per_digest = {entry.digest: entry for entry in files}
        # The largest first, so that it is not alone at the end.
        entries = sorted(one_per_digest.values(), key=lambda entry: -entry.size)
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="files") as pool:
            try:
                futures = [pool.submit(self._put, entry, entry.digest in anew) for entry in entries]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._failed.set()
                pool.shutdown(cancel_futures=True)
        for future in futures:
            error = None if future.cancelled() else future.exception()
            if error is not None and not isinstance(error, _UploadStopped):
                raise error

    def _put(self, entry: FileEntry, anew: bool) -> None:
        self._check_and_watch(0)
        self._store.put(self._folder / entry.path, entry.digest, entry.size, self._check_and_watch, anew=anew)

    def _check_and_watch(self, count: int) -> None:
        if self._failed.is_set():
            raise _UploadStopped
        self._watch(count)
