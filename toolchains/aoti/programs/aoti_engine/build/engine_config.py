"""Describe an engine for its config.json: what it was compiled from, for which limits, and where it runs."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from .request import Request

FORMAT = 1


def describe(request: Request, model: Any) -> dict[str, Any]:
    """The content of config.json; `model` is the loaded transformers model."""
    return {
        "format": FORMAT,
        "toolchain": "aoti",
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": request.device,
        "limits": vars(request.limits),
        "vocab_size": model.config.vocab_size,
        "eos_token_ids": eos_token_ids(model),
        "platform": engine_platform(request),
        # From package metadata, because a serving node compares these versions without importing torch.
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
    }


def engine_platform(request: Request) -> dict[str, str]:
    """The fields of a Platform that a serving node compares with its own machine."""
    machine = {"os": "linux", "arch": platform.machine()}
    if request.device == "cpu":
        return machine | {"cpu_isa": request.isa_level}
    properties = torch.cuda.get_device_properties(0)
    # CUDA appends the MIG profile to the product's name; NVML, which serving nodes ask, does not.
    name = properties.name.partition(" MIG ")[0]
    return machine | {"gpu": name, "sm": f"{properties.major}{properties.minor}"}


def eos_token_ids(model: Any) -> list[int]:
    """The token ids that end an answer. Generation defaults precede the model's configuration; either may have none."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = model.config.eos_token_id
    if ids is None:
        return []
    # transformers allows one id or a list.
    return [ids] if isinstance(ids, int) else list(ids)
