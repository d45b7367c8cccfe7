"""The files that a stage leaves: one JSON of settings, and one file a rank."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchains.toolchain import InvalidOutput


@contextmanager
def named(folder: str) -> Iterator[None]:
    """What is found wrong inside is said to be of this folder; '' is the whole."""
    try:
        yield
    except InvalidOutput as error:
        raise InvalidOutput(f"{folder}: {error}" if folder else str(error)) from None


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        InvalidOutput: it is not there, or no JSON object.
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


def exactly(output: Path, count: int, ending: str) -> list[Path]:
    """The files `rank<N><ending>`, in order of rank.

    Raises:
        InvalidOutput: one is missing or empty, or there is one too many.
    """
    found = _ranks(output, ending)
    if missing := sorted(set(range(count)) - set(found)):
        raise InvalidOutput(f"ranks {missing} of {count} have no {ending} file")
    if extra := sorted(set(found) - set(range(count))):
        raise InvalidOutput(f"there are {ending} files of ranks {extra}, but only {count} ranks")
    if empty := next((path for path in found.values() if path.stat().st_size == 0), None):
        raise InvalidOutput(f"{empty.name} is empty")
    return [found[rank] for rank in range(count)]


def _ranks(output: Path, ending: str) -> dict[int, Path]:
    pattern = re.compile(rf"rank(0|[1-9]\d*){re.escape(ending)}")
    found = ((pattern.fullmatch(path.name), path) for path in output.iterdir())
    return {int(match.group(1)): path for match, path in found if match and path.is_file()}
