"""Safetensors files with numpy, bfloat16 included: numpy has no such type, so it is read as float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def read(path: Path) -> dict[str, Array]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    header.pop("__metadata__", None)
    return {name: _decoded(tensor, data[slice(*tensor["data_offsets"])]) for name, tensor in header.items()}


def write(path: Path, tensors: Mapping[str, Array], dtype: str) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, tensor in tensors.items():
        start, code = len(data), CODES[dtype]
        data += _encoded(tensor, code)
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _decoded(tensor: Mapping[str, Any], data: bytes) -> Array:
    match tensor["dtype"]:
        case "BF16":
            flat = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        case "F16":
            flat = np.frombuffer(data, np.float16).astype(np.float32)
        case "F32":
            flat = np.frombuffer(data, np.float32)
        case other:
            raise ValueError(f"no double reads {other}")
    array: Array = flat.reshape(tensor["shape"])
    return array


def _encoded(tensor: Array, code: str) -> bytes:
    if code == "BF16":
        return (np.ascontiguousarray(tensor, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return tensor.astype(np.float16 if code == "F16" else np.float32).tobytes()
