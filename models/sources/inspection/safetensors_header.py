"""Check the header of a safetensors file against the size of the file, without its data.

The format: 8 bytes with the length of the header, the header as JSON, then the data of the tensors without gaps. See
https://github.com/huggingface/safetensors#format. The library reads whole files only; a test compares its verdicts.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

from enginefarm.contract.bounded import parse_json

MAX_HEADER_BYTES = 100_000_000  # of the library
_LENGTH_BYTES = 8
# Of safetensors 0.8.
_DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
_MAX_DIMENSIONS = 64  # of torch
# The first bytes of files that get the suffix .safetensors by mistake.
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed with gzip",
}


class BadHeader(ValueError):
    """The file is not a complete safetensors file. The text is the predicate of an error text, as in "is truncated"."""


def header_end(size: int, start: bytes) -> int:
    """Return the number of bytes of the file up to the end of its header.

    Args:
        size: of the file.
        start: the first bytes of the file.

    Raises:
        BadHeader: the file cannot have such a header.
    """
    for magic, file_format in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise BadHeader(f"is not a safetensors file but {file_format}")
    if size < _LENGTH_BYTES:
        raise BadHeader(f"is truncated: it has {size} bytes, and the header alone begins with {_LENGTH_BYTES}")
    # A server's message. Its letters, read as a length, would be more than 10^18.
    if all(0x20 <= byte < 0x7F for byte in start[:_LENGTH_BYTES]):
        text = start[:40].decode("ascii", "replace")
        raise BadHeader(f"is not a safetensors file: it begins with the text {text!r}")
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise BadHeader(f"is not a safetensors file: its header would have {length} bytes, more than the format allows")
    if _LENGTH_BYTES + length > size:
        raise BadHeader(f"is truncated: its header alone has {length} bytes, and the file has {size}")
    return _LENGTH_BYTES + length


def tensor_dtypes(size: int, start: bytes) -> dict[str, str]:
    """Return the dtype of each tensor in the file, as in "BF16".

    Args:
        size: of the file.
        start: the first bytes of the file, up to the end of the header.

    Raises:
        BadHeader: the header is broken, or the file is longer or shorter than the header says.
    """
    end = header_end(size, start)
    header_text = start[_LENGTH_BYTES:end]
    try:
        header = parse_json(header_text)
    except json.JSONDecodeError as error:
        raise BadHeader(f"has a header that is not JSON ({error.msg})") from error
    if not isinstance(header, dict) or not header_text.lstrip().startswith(b"{"):
        raise BadHeader("has a header that is not a JSON object")
    metadata = header.pop("__metadata__", None)  # texts of the author, about the file as a whole
    if metadata is None:
        metadata = {}
    is_map_of_texts = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    if not is_map_of_texts:
        raise BadHeader("has a header in which __metadata__ is not a map of texts")
    try:
        "".join([*header, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError:
        raise BadHeader("has a header with half of a surrogate pair in a text") from None
    ranges = sorted((*_byte_range(name, tensor), name) for name, tensor in header.items())
    covered = 0
    for first, last, name in ranges:
        if first != covered:
            raise BadHeader(
                f"has a header in which the data of tensor {_shown(name)} does not follow the tensor before it"
            )
        covered = last
    data_bytes = size - end
    if covered > data_bytes:
        raise BadHeader(f"is truncated: its header describes {end + covered} bytes, and the file has {size}")
    if covered < data_bytes:
        raise BadHeader(f"is longer than its header says: {size} bytes instead of {end + covered}")
    return {name: tensor["dtype"] for name, tensor in header.items()}


def _byte_range(name: str, tensor: Any) -> tuple[int, int]:
    """Return the first byte of a tensor's data and the one after its last.

    Raises:
        BadHeader: its entry is malformed, has an unknown dtype, or a range that its shape does not fill.
    """
    match tensor:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [first, last]} if _is_size(first) and _is_size(
            last
        ):
            pass
        case _:
            raise BadHeader(f"has a header in which tensor {_shown(name)} has no valid dtype, shape or data_offsets")
    if dtype not in _DTYPE_BITS:
        raise BadHeader(f"has tensor {_shown(name)} of dtype {dtype[:20]!r}, which safetensors does not know")
    # Bounded, because the product of a million large numbers takes minutes.
    is_shape = len(shape) <= _MAX_DIMENSIONS and all(map(_is_size, shape))
    if not is_shape:
        raise BadHeader(f"has a header in which tensor {_shown(name)} has the shape {str(shape)[:80]}")
    bits = prod(shape) * _DTYPE_BITS[dtype]
    if bits != 8 * (last - first):
        raise BadHeader(f"has tensor {_shown(name)} whose {last - first} bytes are not those of its shape and dtype")
    return first, last


def _is_size(value: object) -> bool:
    """True for a whole number that a file can have as a dimension or an offset. True and False are none."""
    return type(value) is int and 0 <= value < 1 << 63


def _shown(name: str) -> str:
    # Names come from the model and may be of any length.
    return repr(name[:80])
