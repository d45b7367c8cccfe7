"""Cast several safetensors files into one, tensor by tensor, so that memory holds one tensor and not the model."""

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

from ..checkpoint import is_lfs_pointer
from ..report import Failure, progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"

# The safetensors format has its own names of dtypes.
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Entry:
    """One tensor: the file that contains it, and how it will be stored."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it

    @property
    def size(self) -> int:
        """Bytes once stored."""
        return prod(self.shape) * _BYTES[self.dtype]


def list_tensors(files: Sequence[Path], dtype: torch.dtype) -> list[Entry]:
    """Every tensor of `files`, sorted by name. Floating-point tensors will be stored as `dtype`; integers stay.

    Raises:
        Failure: bad_checkpoint, or unsupported_dtype for quantized weights.
    """
    entries: dict[str, Entry] = {}
    for file in files:
        with _open_safetensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safetensors handle cannot be iterated)
                if name in entries:
                    raise Failure(
                        "bad_checkpoint", f"tensor {name!r} is in {entries[name].file.name} and in {file.name}"
                    )
                view = tensors.get_slice(name)
                stored_dtype = view.get_dtype()
                if stored_dtype in _FLOATING:
                    stored_dtype = _SAFETENSORS_NAMES[dtype]
                elif stored_dtype not in _BYTES:
                    raise Failure(
                        "unsupported_dtype",
                        f"tensor {name!r} is {stored_dtype}: expected unquantized weights (F32, F16 or BF16)",
                    )
                entries[name] = Entry(name, file, tuple(view.get_shape()), stored_dtype)
    # Sorted, so that the same tensors make the same file, however the model's own files divide them.
    return [entries[name] for name in sorted(entries)]


def without_tied_head(entries: Sequence[Entry]) -> list[Entry]:
    """Drop the output head if it equals the embedding: a model with tied weights uses the embedding for both."""
    by_name = {entry.name: entry for entry in entries}
    head = by_name.get(_HEAD)
    embedding = by_name.get(_EMBEDDING)
    if head is None or embedding is None or not torch.equal(_load(head), _load(embedding)):
        return list(entries)
    return [entry for entry in entries if entry is not head]


def write(target: Path, entries: Sequence[Entry], dtype: torch.dtype) -> None:
    """Write `entries` in the safetensors format and cast floating-point tensors to `dtype`.

    Raises:
        Failure: unsupported_dtype; a weight does not fit into `dtype`. bad_checkpoint; a weight is infinite or NaN.
    """
    with target.open("wb") as stream:
        stream.write(safetensors_header(entries))
        for index, entry in enumerate(entries):
            # A model has hundreds of tensors: a line for each would hide the other lines of the log.
            if index % 50 == 0:
                progress(0.05 + 0.9 * index / len(entries), f"casting tensor {index + 1} of {len(entries)}")
            tensor = _load(entry)
            if tensor.is_floating_point():
                tensor = cast_checked(entry.name, tensor, dtype)
            # numpy has no bfloat16: write the bytes, whatever the dtype.
            stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def safetensors_header(entries: Sequence[Entry]) -> bytes:
    """The length of the header (8 bytes, little-endian) and the header: JSON, padded with spaces."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for entry in entries:
        end = start + entry.size
        document[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors that follow
    return len(text).to_bytes(8, "little") + text


def cast_checked(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast a floating-point tensor; `name` is for messages.

    Raises:
        Failure: bad_checkpoint or unsupported_dtype; see `write`.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise Failure("bad_checkpoint", f"tensor {name!r} has values that are infinite or NaN")
    cast = tensor.to(dtype)
    # float16 ends at 65504; larger weights become infinite without any error.
    if not bool(torch.isfinite(cast).all()):
        raise Failure(
            "unsupported_dtype",
            f"tensor {name!r} reaches {float(tensor.abs().max()):.3g}, more than {dtype} can store: use bfloat16",
        )
    return cast


def _load(entry: Entry) -> torch.Tensor:
    with _open_safetensors(entry.file) as tensors:
        tensor: torch.Tensor = tensors.get_tensor(entry.name)
        return tensor


@contextmanager
def _open_safetensors(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        if is_lfs_pointer(file):
            reason = f"{file.name} is a Git LFS pointer: run `git lfs pull` in the clone that the model comes from"
            raise Failure("bad_checkpoint", reason) from error
        raise Failure("bad_checkpoint", f"{file.name} is not a complete safetensors file: {error}") from error
