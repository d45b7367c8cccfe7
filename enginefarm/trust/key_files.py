"""Read files of keys, which may be pipes (`--trusted-key <(…)`) and may be named by mistake."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_MAX_BYTES = 64 << 10  # a key in PEM has some hundred


def read_key_file(path: Path) -> bytes:
    """Return the content of a key's file. A pipe is read while a process writes to it; else it counts as empty.

    Raises:
        OSError: it cannot be read, or has more than 64 KiB, as a device without an end.
    """
    # Opened without waiting: the named pipe of a process that never starts would stop this one for ever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        os.set_blocking(stream.fileno(), True)
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content
