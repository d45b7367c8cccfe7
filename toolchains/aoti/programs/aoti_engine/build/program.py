"""Build: load the model, record its logits, export, compile, then test the engine in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import environment
from ..checkpoint import copy_tokenizer, read_json, require_empty, weight_files
from ..report import Failure, exit_status, progress
from . import engine_limits, isa
from .request import Request

_SMOKE_PROGRAM = Path(__file__).resolve().parents[2] / "smoke.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, build, and return the exit status."""
    request = Request.parse(argv)
    environment.prepare()
    require_empty(request.output)
    return exit_status(lambda: build(request))


def build(request: Request) -> None:
    """Leave a tested engine in `request.output`.

    Raises:
        Failure: with any of its codes.
    """
    progress(0.0, "checking compiler, limits and checkpoint")
    # Without this check the code generator would fail only after the export, minutes later.
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise Failure(
            "missing_compiler", f"no C++ compiler: {compiler!r} is not on PATH; install g++, or set CXX to another"
        )
    config = read_json(request.checkpoint / "config.json")
    engine_limits.check(request.limits, config)
    # Called for its refusals: a missing shard would otherwise fail only while the model is loaded.
    weight_files(request.checkpoint)

    # The worker starts programs in their scratch directory.
    reference = Path.cwd() / "reference.safetensors"
    engine_config = compile_engine(request, config, reference)
    copy_tokenizer(request.checkpoint, request.output)
    # The smoke test loads the engine as a serving node does, which reads config.json.
    _write_config(request.output, engine_config)
    progress(0.90, "running the engine in another process")
    engine_config["smoke"] = run_smoke_test(request.output, reference)
    _write_config(request.output, engine_config)
    reference.unlink()
    progress(1.0, "the engine computes what the model does")


def compile_engine(request: Request, config: dict[str, Any], reference: Path) -> dict[str, Any]:
    """Write the engine to the output and the model's logits to `reference`; return the content of config.json.

    A function of its own, so that the model's memory is free when it returns: the smoke test loads the engine.
    """
    # Importing torch and transformers takes seconds: only after the cheap checks.
    from . import compilation, eager
    from .engine_config import describe

    progress(0.02, "loading the model")
    model = eager.load(request.checkpoint, str(config.get("dtype")), request.device)
    engine_limits.check_window(request.limits, getattr(model.config, "sliding_window", None))
    progress(0.10, "running the model for reference logits")
    eager.write_reference(model, request.limits, reference)
    shapes = eager.cache_shapes(model)
    progress(0.15, "exporting the graph")
    graph = compilation.export(model, shapes, request.limits)
    progress(0.25, "compiling the engine")
    compilation.compile_to(request.output, graph, request.device, isa.LEVELS[request.isa_level])
    return describe(request, model)


def run_smoke_test(engine: Path, reference: Path) -> dict[str, Any]:
    """Run smoke.py on the engine; return its measurements.

    Raises:
        Failure: smoke_failed.
    """
    command = [sys.executable, str(_SMOKE_PROGRAM), "--engine-dir", str(engine), "--reference", str(reference)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stderr.write(process.stderr)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["it printed nothing"]
        # A smoke test that fails by itself names its reason after this prefix; a crash leaves any last line.
        reason = lines[-1].partition("[enginefarm] error smoke_failed: ")[2] or lines[-1]
        raise Failure("smoke_failed", f"the engine compiled, but it does not run (exit {process.returncode}): {reason}")
    # Libraries may print to stdout too; the measurements are the last line.
    measurements: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return measurements


def _write_config(output: Path, document: dict[str, Any]) -> None:
    (output / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
