"""Upload the files of an output, several at once: one connection seldom fills a network, nor one small file any."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from enginefarm.contract.digest import Digest
from enginefarm.contract.manifest import FileEntry
from models.store import Store
from workers.parallel import ParallelTasks

FILES_AT_ONCE = 3  # their parts share the store's buffers, so memory does not grow with this number


def upload_files(
    store: Store, folder: Path, files: Sequence[FileEntry], *, anew: Collection[Digest], keep_going: Callable[[], None]
) -> None:
    """Upload the files below `folder` that the store lacks, and those of `anew` whether it has them or not.

    Args:
        keep_going: raises to stop all of them. Called from several threads.

    Raises:
        Exception: the first failure of a file, which stops the others.
    """
    # Two files with the same bytes are one blob: two uploads of it at once would only disturb each other.
    one_per_digest = {entry.digest: entry for entry in files}
    # The largest first, so that it is not alone at the end.
    entries = sorted(one_per_digest.values(), key=lambda entry: -entry.size)
    tasks = [
        partial(store.put, folder / entry.path, entry.digest, entry.size, anew=entry.digest in anew)
        for entry in entries
    ]
    ParallelTasks(tasks, keep_going).run(FILES_AT_ONCE)
