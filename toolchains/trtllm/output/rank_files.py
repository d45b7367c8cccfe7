"""Find the files of a checkpoint or an engine: one file for each rank."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from toolchains.output_files import OutputFiles
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


def files_of_ranks(output: OutputFiles, count: int, ending: str) -> list[str]:
    """The names of the files `rank<N><ending>` of ranks 0 to `count` - 1, in order of rank.

    Raises:
        InvalidOutput: a file is missing or empty, or there is a file of another rank.
    """
    # int() would accept a leading zero, but the runtime opens rank1.engine and not rank01.engine. A program could write
    # a number with more digits than int() takes.
    pattern = re.compile(rf"rank(0|[1-9]\d{{0,8}}){re.escape(ending)}")
    files: dict[int, str] = {}
    for name in output.names():
        match = pattern.fullmatch(name)
        if match:
            files[int(match.group(1))] = name

    missing = sorted(set(range(count)) - set(files))
    if missing:
        raise InvalidOutput(f"ranks {missing} of {count} have no {ending} file")
    # A surplus file shows that the program was told another number of ranks than the spec has.
    extra = sorted(set(files) - set(range(count)))
    if extra:
        raise InvalidOutput(f"there are {ending} files of ranks {extra}, but only {count} ranks")
    # A program that is killed, or whose disk is full, leaves the file that it just opened.
    for name in files.values():
        if not output.size(name):
            raise InvalidOutput(f"{name} is empty")
    return [files[rank] for rank in range(count)]
