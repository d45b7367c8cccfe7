"""Cast safetensors files into one, tensor by tensor, so that memory holds one tensor and not the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..report import Failure, progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_STORED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Entry:
    """One tensor: where it is, and how it will be stored."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it

    @property
    def size(self) -> int:
        """Bytes once stored."""
        return prod(self.shape) * _BYTES[self.dtype]


def plan(files: Sequence[Path], dtype: torch.dtype) -> list[Entry]:
    """Every tensor of `files`, by name. Floating-point ones become `dtype`; integers stay.

    Raises:
        Failure: bad_checkpoint, or unsupported_dtype for quantised weights.
    """
    entries: dict[str, Entry] = {}
    for file in files:
        with _reading(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safetensors handle cannot be iterated)
                if name in entries:
                    raise Failure(
                        "bad_checkpoint", f"tensor {name!r} is in {entries[name].file.name} and in {file.name}"
                    )
                view = tensors.get_slice(name)
                stored = _stored_as(name, view.get_dtype(), dtype)
                entries[name] = Entry(name, file, tuple(view.get_shape()), stored)
    return [entries[name] for name in sorted(entries)]


def without_tied_head(entries: Sequence[Entry]) -> list[Entry]:
    """Drop the output head where it is the embedding stored again: a model that ties them does so when it loads."""
    named = {entry.name: entry for entry in entries}
    head, embedding = named.get(_HEAD), named.get(_EMBEDDING)
    stored_twice = head and embedding and torch.equal(_load(head), _load(embedding))
    return [entry for entry in entries if entry is not head or not stored_twice]


def write(target: Path, entries: Sequence[Entry], dtype: torch.dtype) -> None:
    """Write `entries` in the safetensors format, casting on the way.

    Raises:
        Failure: unsupported_dtype; a weight does not fit into `dtype`.
    """
    with target.open("wb") as stream:
        stream.write(_header(entries))
        for done, entry in enumerate(entries):
            if done % 50 == 0:
                progress(0.05 + 0.9 * done / len(entries), f"casting tensor {done + 1} of {len(entries)}")
            tensor = _cast(entry, dtype)
            stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _header(entries: Sequence[Entry]) -> bytes:
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        document[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": [end, end := end + entry.size],
        }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors that follow are then aligned
    return len(text).to_bytes(8, "little") + text


def _stored_as(name: str, found: str, wanted: torch.dtype) -> str:
    if found in _FLOATING:
        return _STORED[wanted]
    if found in _BYTES:
        return found
    raise Failure("unsupported_dtype", f"tensor {name!r} is {found}: expected unquantised weights (F32, F16 or BF16)")


def _cast(entry: Entry, dtype: torch.dtype) -> torch.Tensor:
    tensor = _load(entry)
    if not tensor.is_floating_point():
        return tensor
    if not bool(torch.isfinite(tensor).all()):
        raise Failure("bad_checkpoint", f"tensor {entry.name!r} has values that are infinite or no number")
    cast = tensor.to(dtype)
    if not bool(torch.isfinite(cast).all()):
        raise Failure(
            "unsupported_dtype",
            f"tensor {entry.name!r} reaches {float(tensor.abs().max()):.3g}, more than {dtype} holds: use bfloat16",
        )
    return cast


def _load(entry: Entry) -> torch.Tensor:
    with _reading(entry.file) as tensors:
        tensor: torch.Tensor = tensors.get_tensor(entry.name)
        return tensor


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise Failure("bad_checkpoint", f"{file.name} is not a whole safetensors file: {error}") from error
