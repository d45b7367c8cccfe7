"""Lock a worker's scratch folder: a second worker of the same name would remove the files of the running stage."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from enginefarm.transfer.file_lock import locked_if_free
from models.start import StartUnavailableError


@contextmanager
def scratch_lock(scratch: Path) -> Iterator[None]:
    """Lock the folder while the block runs. The kernel releases the lock when this process ends, however it ends.

    Programs of a stage do not inherit the lock. `os.execve` releases it, too: the new program locks the folder again.

    Raises:
        StartUnavailableError: another worker has the lock.
        ValueError: the folder cannot be locked; the text says what to do.
    """
    settings = f"ENGINEFARM_SCRATCH={scratch.parent}"
    holder_file = scratch.with_name(f".{scratch.name}.worker")
    with ExitStack() as stack:
        try:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            is_locked = stack.enter_context(locked_if_free(scratch))
            if is_locked:
                holder_file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        except (OSError, NotImplementedError) as error:
            raise ValueError(
                f"{settings}: the folder {scratch} cannot be locked: {getattr(error, 'strerror', None) or error}: "
                "choose a folder that this user may write, on a file system with flock(2), such as a local disk"
            ) from error
        if not is_locked:
            raise StartUnavailableError(
                f"another worker{_holder(holder_file)} uses the folder {scratch}: give this one a name of its own "
                f"(ENGINEFARM_WORKER_NAME, now {scratch.name}) or a folder of its own ({settings})"
            )
        yield


def _holder(holder_file: Path) -> str:
    """The process that has the lock, as words in parentheses; empty if it is not known."""
    try:
        return f" ({holder_file.read_text(errors='replace').strip()[:200]})"
    except OSError:
        return ""
