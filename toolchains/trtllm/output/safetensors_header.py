"""Whether a file is a whole safetensors file, from its header alone: no weight is read, no numpy needed.

The format: 8 bytes with the header's length (little endian), the header as JSON, the tensors end to end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolchains.toolchain import InvalidOutput

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def check(path: Path) -> None:
    """
    Raises:
        InvalidOutput: the file is cut short, too long, or no safetensors file at all.
    """
    tensors, data_length = _read_header(path)
    if not tensors:
        raise InvalidOutput(f"{path.name} holds no tensor")
    end = 0
    for start, stop in sorted(_extent(path, name, tensor) for name, tensor in tensors.items()):
        if start != end or stop < start:
            raise InvalidOutput(f"{path.name} is no safetensors file: its tensors do not lie end to end")
        end = stop
    if end != data_length:
        raise InvalidOutput(f"{path.name} is not whole: it has {data_length} bytes of tensors, not {end}")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors by name, and how many bytes follow the header."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _LONGEST_HEADER):
            raise InvalidOutput(f"{path.name} is not a whole safetensors file: it ends within its header")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise InvalidOutput(f"{path.name} is no safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise InvalidOutput(f"{path.name} is no safetensors file: its header is not an object")
    header.pop("__metadata__", None)
    return header, size - _LENGTH_BYTES - length


def _extent(path: Path, name: str, tensor: object) -> tuple[int, int]:
    match tensor:
        case {"dtype": str(), "shape": [*_], "data_offsets": [int(start), int(stop)]}:
            return start, stop
    raise InvalidOutput(f"{path.name} is no safetensors file: {name} has no dtype, shape and place")
