"""Export the model with its cache as one graph, and compile that into an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from . import isa
from .cached_decoder import CachedDecoder
from .eager import CacheShape
from .engine_limits import Limits
from ..report import Failure, ran_out_of_memory
from ..run.session import ENGINE


def export(model: Any, shapes: Sequence[CacheShape], limits: Limits) -> ExportedProgram:
    """The graph for any batch and any number of tokens within the limits.

    Raises:
        Failure: unsupported_model; the model's code cannot be traced.
    """
    decoder = CachedDecoder(model, shapes, limits).eval()
    rows = _dimension("batch", limits.max_batch_size)
    tokens = _dimension("tokens", limits.max_input_len)
    example = _example(limits, model.device)
    varying: tuple[dict[int, Any], ...] = ({0: rows, 1: tokens}, {}, {0: rows})
    try:
        with torch.no_grad():
            return torch.export.export(decoder, example, dynamic_shapes=varying, strict=False)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise Failure("unsupported_model", f"{type(model).__name__} cannot be exported: {error}") from error


def compile_to(output: Path, program: ExportedProgram, device: str, level: isa.Level) -> None:
    """Leave the package in `output`.

    Raises:
        Failure: compile_failed.
    """
    isa.restrict_vectors(level)
    package = output / ENGINE
    # Without the first, input checks refuse a batch or a prompt of one.
    configs = {"aot_inductor.check_lowerbound": False} | _march(device, level)
    try:
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(package),
            inductor_configs=configs,
        )
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise Failure("compile_failed", f"{type(error).__name__}: {error}") from error
    if device == "cpu":
        isa.check_recorded(level, _recorded_isa(package))


def _march(device: str, level: isa.Level) -> dict[str, Any]:
    """The setting that names the instruction set, where this torch has one; before 2.12 it was always the host's.

    A GPU engine's own code runs on the GPU, and only the little around it is C++.
    """
    if hasattr(torch._inductor.config.cpp, "march"):
        return {"cpp.march": level.march}
    if device == "cpu":
        raise Failure(
            "compile_failed", f"torch {torch.__version__} cannot compile for {level.march}: use 2.13 or newer"
        )
    return {}


def _settings(level: isa.Level) -> dict[str, Any]:
    """Those that this version of torch has: unknown ones would be refused."""
    from torch._inductor import config

    wanted: dict[str, Any] = {
        "cpp.march": level.march,
        "aot_inductor.check_lowerbound": False,  # else the input checks refuse a batch or a prompt of one
        "aot_inductor.precompile_headers": False,  # would pay from the second engine on; each starts afresh
    }
    known = config.get_config_copy()
    return {name: value for name, value in wanted.items() if name in known}


def _dimension(name: str, largest: int) -> Any:
    """From 1 to `largest`; a fixed dimension if that is all."""
    return Dim(name, min=1, max=largest) if largest > 1 else Dim.STATIC


def _example(limits: Limits, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with. Two where there may be more: a dimension of one would be taken for a constant."""
    rows, tokens = min(2, limits.max_batch_size), min(2, limits.max_input_len)
    ids = torch.zeros(rows, tokens, dtype=torch.long, device=device)
    return ids, torch.zeros(1, dtype=torch.long, device=device), torch.zeros(rows, dtype=torch.long, device=device)


def _recorded_isa(package: Path) -> str:
    metadata = torch._inductor.aoti_load_package(str(package)).get_metadata()
    return str(metadata.get("AOTI_CPU_ISA", "nothing"))
