"""Read the files of a checkpoint or an engine: JSON files, and one file for each rank."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchains.toolchain import InvalidOutput


@contextmanager
def errors_in(folder: str) -> Iterator[None]:
    """Prefix the message of an InvalidOutput with the folder's name; '' is the output directory itself."""
    try:
        yield
    except InvalidOutput as error:
        if not folder:
            raise
        raise InvalidOutput(f"{folder}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InvalidOutput: the file is missing or contains no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidOutput(f"there is no {path.name}") from None
    except ValueError as error:
        raise InvalidOutput(f"{path.name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidOutput(f"{path.name} is not a JSON object")
    return content


def files_of_ranks(output: Path, count: int, ending: str) -> list[Path]:
    """The files `rank<N><ending>` of ranks 0 to `count` - 1, in order of rank.

    Raises:
        InvalidOutput: a file is missing or empty, or there is a file of another rank.
    """
    # int() would accept a leading zero, but the runtime opens rank1.engine and not rank01.engine.
    pattern = re.compile(rf"rank(0|[1-9]\d*){re.escape(ending)}")
    files: dict[int, Path] = {}
    for path in output.iterdir():
        match = pattern.fullmatch(path.name)
        if match and path.is_file():
            files[int(match.group(1))] = path

    missing = sorted(set(range(count)) - set(files))
    if missing:
        raise InvalidOutput(f"ranks {missing} of {count} have no {ending} file")
    # A surplus file shows that the program was told another number of ranks than the spec has.
    extra = sorted(set(files) - set(range(count)))
    if extra:
        raise InvalidOutput(f"there are {ending} files of ranks {extra}, but only {count} ranks")
    # A program that is killed, or whose disk is full, leaves the file that it just opened.
    for path in files.values():
        if path.stat().st_size == 0:
            raise InvalidOutput(f"{path.name} is empty")
    return [files[rank] for rank in range(count)]
