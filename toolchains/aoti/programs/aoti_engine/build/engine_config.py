"""What an engine says of itself in config.json: what it was compiled from, for what, and where it runs."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .program import Request

FORMAT = 1


def describe(request: Request, model: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "toolchain": "aoti",
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": request.device,
        "limits": vars(request.limits),
        "vocab_size": model.config.vocab_size,
        "eos_token_ids": _eos(model),
        "platform": _platform(request),
        # As the package metadata has them: a node compares them without importing torch.
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
    }


def _platform(request: Request) -> dict[str, str]:
    machine = {"os": "linux", "arch": platform.machine()}
    if request.device == "cpu":
        return machine | {"cpu_isa": request.level}
    properties = torch.cuda.get_device_properties(0)
    # CUDA appends the MIG profile to the product's name, NVML keeps the two apart.
    name = properties.name.partition(" MIG ")[0]
    return machine | {"gpu": name, "sm": f"{properties.major}{properties.minor}"}


def _eos(model: Any) -> list[int]:
    """Ids that end an answer: the generation defaults say it, else the model."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = model.config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
