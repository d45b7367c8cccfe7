"""Create a folder for one attempt, and remove it when the attempt ends."""

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
        # A kill of the worker skips this: `clear` removes the folder at the next start.
        remove(folder)


def clear(root: Path) -> None:
    """Remove the folders of a killed worker below `root`. One worker owns one scratch folder."""
    if root.is_dir():
        for folder in root.iterdir():
            remove(folder)


def remove(folder: Path) -> None:
    """Remove `folder` with all its content, also folders whose permissions a program removed."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            # chmod follows links: a program may have linked to a folder of somebody else.
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
