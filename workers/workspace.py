"""A folder for one attempt, gone when the attempt is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchains.toolchain import Directories


@contextmanager
def workspace(root: Path, key: str, attempt: int) -> Iterator[tuple[Path, Directories]]:
    """Make the attempt's folder and the stage's directories in it; remove them on exit. Only this user may read."""
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{key[:12]}-{attempt}-", dir=root))
    try:
        directories = Directories(folder / "source", folder / "output", folder / "scratch")
        for directory in (directories.source, directories.output, directories.scratch):
            directory.mkdir()
        yield folder, directories
    finally:
        remove(folder)  # `clear` gets what is left when the worker starts again


def clear(root: Path) -> None:
    """Remove what a killed worker left here. One worker owns one scratch folder."""
    if root.is_dir():
        for left in root.iterdir():
            remove(left)


def remove(folder: Path) -> None:
    """All of it, folders too that a program took every permission from."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
