"""Write a file so that it appears complete or not at all, and survives a power cut once it has appeared.

The order matters: write under a temporary name, fsync the file, rename it, fsync the directory. Renaming first could
leave a complete name on an incomplete file after a power cut; without the last fsync the new name itself can be lost.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def write_atomically(chunks: Iterable[bytes], destination: Path, *, staging: Path) -> None:
    """Write `chunks` to a temporary file in `staging`, then rename it to `destination`, replacing a file there.

    When this returns, content and name are durable. If `chunks` raises, `destination` is unchanged and the temporary
    file is removed.

    Args:
        staging: an existing directory on the file system of `destination`, because rename(2) works within one only.

    Raises:
        OSError: the disk refuses.
        Exception: whatever iterating over `chunks` raises.
    """
    # A random name, so that two writers of one destination cannot write into each other's file.
    temporary = staging / f".{secrets.token_hex(16)}.partial"
    try:
        with temporary.open("xb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        rename_durably(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)


def rename_durably(source: Path, destination: Path) -> None:
    """Rename a file or directory and make the new name durable. The content must have been synced before.

    As rename(2) does, this replaces a file or an empty directory at `destination`.

    Raises:
        OSError: the rename fails, for example because `destination` is a directory with entries.
    """
    source.replace(destination)
    sync_directory(destination.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file durable that somebody else has written.

    Raises:
        OSError: it does not exist, cannot be read, or its disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the entries of `directory` durable: fsync of a file does not cover the name that leads to it.

    Raises:
        OSError: `directory` does not exist, is not a directory, or its disk fails.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
