"""Check from its header that a safetensors file is complete. Reads no weights and needs no numpy.

The format: 8 bytes with the header's length (little-endian), the header as JSON, then the tensors end to end.
"""

from __future__ import annotations

import json
from pathlib import Path

from toolchains.toolchain import InvalidOutput

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def check(path: Path) -> None:
    """Require a safetensors file whose tensors fill it exactly.

    Raises:
        InvalidOutput: the file is truncated, too long, or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        # Checked before reading: a damaged length could ask for gigabytes of memory.
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _LONGEST_HEADER):
            raise InvalidOutput(f"{path.name} is not a complete safetensors file: it ends within its header")
        try:
            tensors = json.loads(stream.read(length))
        except ValueError:
            raise InvalidOutput(f"{path.name} is no safetensors file: its header is not JSON") from None
    if not isinstance(tensors, dict):
        raise InvalidOutput(f"{path.name} is no safetensors file: its header is not an object")
    tensors.pop("__metadata__", None)  # free text, no tensor
    if not tensors:
        raise InvalidOutput(f"{path.name} contains no tensor")

    extents = []
    for name, tensor in tensors.items():
        match tensor:
            case {"dtype": str(), "shape": [*_], "data_offsets": [int(start), int(stop)]}:
                extents.append((start, stop))
            case _:
                raise InvalidOutput(f"{path.name} is no safetensors file: {name} has no dtype, shape and offsets")
    # The header may list tensors in any order, but the format allows neither gaps nor overlaps between them.
    end = 0
    for start, stop in sorted(extents):
        if start != end or stop < start:
            raise InvalidOutput(f"{path.name} is no safetensors file: its tensors do not lie end to end")
        end = stop
    tensor_bytes = size - _LENGTH_BYTES - length
    if end != tensor_bytes:
        raise InvalidOutput(f"{path.name} is not complete: it has {tensor_bytes} bytes of tensors, not {end}")
