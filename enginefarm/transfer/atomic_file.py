"""Bytes first, name last: how a file appears whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def land(chunks: Iterable[bytes], destination: Path, *, staging: Path) -> None:
    """Write `chunks` to a new file in `staging`, and move it to `destination` once they have ended without an error.

    Both folders exist and are on one file system. When this returns, bytes and name survive a power cut.
    """
    partial = staging / f".{secrets.token_hex(16)}.partial"
    try:
        with partial.open("xb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(destination.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
