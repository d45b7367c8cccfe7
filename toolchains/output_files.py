"""Read a stage's output in `Toolchain.check_output`. The programs that wrote it are not trusted.

Opening a path would follow a link, wait for a named pipe, or read a file without end. These functions refuse all of
that with `InvalidOutput`, and read small files only up to a limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from enginefarm.contract import regular_files
from enginefarm.contract.regular_files import MissingFile, RefusedFile
from toolchains.toolchain import InvalidOutput

LONGEST_JSON = 16 << 20  # bytes; parsed, JSON takes up to thirty times its length in memory
_SAFETENSORS_LENGTH_BYTES = 8
_LONGEST_HEADER = 32 << 20  # bytes; 200,000 tensors


@dataclass(frozen=True)
class OutputFiles:
    """The regular files below `root`. Paths are relative to its subfolder `folder`, with '/'."""

    root: Path
    folder: str = ""

    def below(self, folder: str) -> OutputFiles:
        """The files of a subfolder; '' is the folder itself."""
        return OutputFiles(self.root, self._path(folder))

    def names(self) -> list[str]:
        """The names of the regular files directly in the folder, sorted.

        Raises:
            InvalidOutput: the output has links, special files, or more files than an output may have.
        """
        prefix = f"{self.folder}/" if self.folder else ""
        names = []
        try:
            for file in regular_files.walk(self.root):
                name = file.path.removeprefix(prefix)
                if file.path.startswith(prefix) and "/" not in name:
                    names.append(name)
        except RefusedFile as error:
            raise InvalidOutput(str(error)) from None
        return sorted(names)

    def size(self, path: str) -> int | None:
        """The length of a regular file in bytes; None if there is none."""
        try:
            with regular_files.opened(self.root, self._path(path)) as stream:
                return stream.seek(0, 2)
        except RefusedFile:
            return None

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open a regular file for reading.

        Raises:
            InvalidOutput: it is missing, unreadable or no regular file.
        """
        try:
            with regular_files.opened(self.root, self._path(path)) as stream:
                yield stream
        except MissingFile:
            raise InvalidOutput(f"there is no {path}") from None
        except RefusedFile as error:
            raise InvalidOutput(str(error)) from None
        except OSError as error:
            raise InvalidOutput(f"{path} cannot be read: {error.strerror}") from None

    def read_json(self, path: str, *, longest: int = LONGEST_JSON) -> dict[str, Any]:
        """The JSON object in a file of at most `longest` bytes.

        Raises:
            InvalidOutput: the file is missing, too long, or contains no JSON object.
        """
        with self.open(path) as stream:
            content = stream.read(longest + 1)
        if len(content) > longest:
            raise InvalidOutput(f"{path} is longer than {longest} bytes")
        parsed = parse_json(content, path)
        if not isinstance(parsed, dict):
            raise InvalidOutput(f"{path} is not a JSON object")
        return parsed

    def check_safetensors(self, path: str) -> None:
        """Require a safetensors file whose tensors fill it exactly. Reads its header, no weights.

        The format: 8 bytes with the header's length (little-endian), the header as JSON, then the tensors end to end.

        Raises:
            InvalidOutput: the file is missing, truncated, too long, or no safetensors file.
        """
        with self.open(path) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            length = int.from_bytes(stream.read(_SAFETENSORS_LENGTH_BYTES), "little")
            # Checked before reading: a damaged length could ask for gigabytes of memory.
            if size < _SAFETENSORS_LENGTH_BYTES or length > min(size - _SAFETENSORS_LENGTH_BYTES, _LONGEST_HEADER):
                raise InvalidOutput(f"{path} is not a complete safetensors file: it ends within its header")
            header = stream.read(length)
        tensors = parse_json(header, f"the header of {path}")
        if not isinstance(tensors, dict):
            raise InvalidOutput(f"{path} is no safetensors file: its header is not an object")
        tensors.pop("__metadata__", None)  # free text, no tensor
        if not tensors:
            raise InvalidOutput(f"{path} contains no tensor")

        extents = []
        for name, tensor in tensors.items():
            match tensor:
                case {"dtype": str(), "shape": [*_], "data_offsets": [int(start), int(stop)]}:
                    extents.append((start, stop))
                case _:
                    raise InvalidOutput(f"{path} is no safetensors file: {name} has no dtype, shape and offsets")
        # The header may list tensors in any order, but the format allows neither gaps nor overlaps between them.
        end = 0
        for start, stop in sorted(extents):
            if start != end or stop < start:
                raise InvalidOutput(f"{path} is no safetensors file: its tensors do not lie end to end")
            end = stop
        tensor_bytes = size - _SAFETENSORS_LENGTH_BYTES - length
        if end != tensor_bytes:
            raise InvalidOutput(f"{path} is not complete: it has {tensor_bytes} bytes of tensors, not {end}")

    def _path(self, path: str) -> str:
        joined = PurePosixPath(self.folder, path)
        return "" if joined == PurePosixPath() else str(joined)


def parse_json(content: bytes, name: str) -> Any:
    """Parse JSON of a program; `name` says in errors what it is.

    Raises:
        InvalidOutput: it is no JSON, or is nested more deeply than Python's stack.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise InvalidOutput(f"{name} is nested too deeply") from None
    except ValueError as error:
        raise InvalidOutput(f"{name} is not JSON: {error}") from None
