"""Export the model with its cache as one graph, and compile the graph into an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from ..report import Failure, ran_out_of_memory
from ..run.session import ENGINE
from . import isa
from .cached_decoder import CachedDecoder
from .eager import CacheShape
from .engine_limits import EngineLimits


def export(model: Any, shapes: Sequence[CacheShape], limits: EngineLimits) -> ExportedProgram:
    """The graph for any batch and any number of tokens within the limits.

    Raises:
        Failure: unsupported_model; the model's code cannot be traced.
    """
    decoder = CachedDecoder(model, shapes, limits).eval()
    # Inputs to trace with. Two rows of two tokens if the limits allow, since export takes a dimension of one for a
    # constant.
    rows = min(2, limits.max_batch_size)
    tokens = min(2, limits.max_input_len)
    input_ids = torch.zeros(rows, tokens, dtype=torch.long, device=model.device)
    start = torch.zeros(1, dtype=torch.long, device=model.device)
    pad = torch.zeros(rows, dtype=torch.long, device=model.device)

    batch_dimension = _dimension("batch", limits.max_batch_size)
    token_dimension = _dimension("tokens", limits.max_input_len)
    dynamic_shapes: tuple[dict[int, Any], ...] = ({0: batch_dimension, 1: token_dimension}, {}, {0: batch_dimension})
    try:
        with torch.no_grad():
            return torch.export.export(decoder, (input_ids, start, pad), dynamic_shapes=dynamic_shapes, strict=False)
    # Tracing runs the model's code, which may raise anything.
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise Failure("unsupported_model", f"{type(model).__name__} cannot be exported: {error}") from error


def compile_to(output: Path, graph: ExportedProgram, device: str, level: isa.IsaLevel) -> None:
    """Write the engine's package into the directory `output`.

    Raises:
        Failure: compile_failed.
    """
    isa.restrict_vectors(level)
    # With a lower bound, input checks refuse a batch or a prompt of one: dimensions are traced from two.
    settings: dict[str, Any] = {"aot_inductor.check_lowerbound": False}
    if hasattr(torch._inductor.config.cpp, "march"):
        settings["cpp.march"] = level.march
    elif device == "cpu":
        # Before 2.12 torch always compiles for the host's own instruction set. A GPU engine may be compiled so: its
        # code runs on the GPU, and only a thin layer around it is C++.
        raise Failure(
            "compile_failed", f"torch {torch.__version__} cannot compile for {level.march}: use 2.13 or newer"
        )
    package = output / ENGINE
    try:
        torch._inductor.aoti_compile_and_package(graph, package_path=str(package), inductor_configs=settings)
    # The compiler has no error class of its own.
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise Failure("compile_failed", f"{type(error).__name__}: {error}") from error
    if device == "cpu":
        metadata = torch._inductor.aoti_load_package(str(package)).get_metadata()
        isa.check_recorded(level, str(metadata.get("AOTI_CPU_ISA", "nothing")))


def _dimension(name: str, largest: int) -> Any:
    """A dimension from 1 to `largest`, or a static one if `largest` is 1."""
    # Dim refuses a range of one size.
    if largest == 1:
        return Dim.STATIC
    return Dim(name, min=1, max=largest)
