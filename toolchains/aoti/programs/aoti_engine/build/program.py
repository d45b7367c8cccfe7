"""Build: load, measure the model, export, compile, then prove the engine in another process."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import isa

from . import engine_limits as limits

from .. import environment as sandbox
from ..checkpoint import copy_along, make_empty, read_json, weight_files
from .engine_limits import Limits
from ..report import Failure, exit_status, progress

_SMOKE = Path(__file__).resolve().parents[2] / "smoke.py"


@dataclass(frozen=True)
class Request:
    """The arguments of the program."""

    checkpoint: Path
    output: Path
    device: Literal["cpu", "cuda"]
    limits: Limits
    level: str  # of the instruction set; on a GPU it concerns the thin host code only


def main(argv: Sequence[str] | None = None) -> int:
    request = _parse(argv)
    sandbox.settle()
    make_empty(request.output)
    return exit_status(lambda: build(request))


def build(request: Request) -> None:
    """Raises Failure, any of its codes."""
    progress(0.0, "checking compiler, limits and checkpoint")
    _check_compiler()
    config = read_json(request.checkpoint / "config.json")
    limits.check(request.limits, config)
    weight_files(request.checkpoint)
    reference = Path.cwd() / "reference.safetensors"
    facts = _compile(request, config, reference)
    copy_along(request.checkpoint, request.output)
    _write_config(request.output, facts)
    progress(0.90, "running the engine in another process")
    _write_config(request.output, facts | {"smoke": _smoke(request.output, reference)})
    reference.unlink()
    progress(1.0, "the engine computes what the model does")


def _compile(request: Request, config: dict[str, Any], reference: Path) -> dict[str, Any]:
    """Leave the engine in the output and the expected logits in `reference`; the content of config.json.

    The model's memory is free again when this returns: the smoke test needs room for the engine.
    """
    from . import compilation  # torch and transformers: only once the cheap checks have passed
    from . import eager
    from . import engine_config as facts

    progress(0.02, "loading the model")
    model = eager.load(request.checkpoint, str(config.get("dtype")), request.device)
    limits.check_window(request.limits, getattr(model.config, "sliding_window", None))
    progress(0.10, "running the model to know what to expect")
    eager.write_reference(model, request.limits, reference)
    shapes = eager.cache_shapes(model)
    progress(0.15, "exporting the graph")
    program = compilation.export(model, shapes, request.limits)
    progress(0.25, "compiling the engine")
    level = isa.LEVELS[request.level]
    compilation.compile_to(request.output, program, request.device, level)
    return facts.describe(request, model)


def _check_compiler() -> None:
    """The code generator would find out only after the export."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise Failure(
            "missing_compiler", f"no C++ compiler: {compiler!r} is not on PATH; install g++, or set CXX to another"
        )


def _smoke(engine: Path, reference: Path) -> dict[str, Any]:
    command = [sys.executable, str(_SMOKE), "--engine-dir", str(engine), "--reference", str(reference)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stderr.write(ended.stderr)
    if ended.returncode:
        said = ended.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        reason = said[0].partition("[enginefarm] error smoke_failed: ")[2] or said[0]
        raise Failure("smoke_failed", f"the engine was compiled but does not run (exit {ended.returncode}): {reason}")
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def _write_config(output: Path, document: dict[str, Any]) -> None:
    (output / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _parse(argv: Sequence[str] | None) -> Request:
    parser = argparse.ArgumentParser(prog="build.py", description="checkpoint → engine")
    parser.add_argument("--checkpoint-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    for name in ("max-batch-size", "max-input-len", "max-seq-len"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--march", choices=tuple(isa.LEVELS), default=isa.default())
    given = parser.parse_args(argv)
    bounds = Limits(given.max_batch_size, given.max_input_len, given.max_seq_len)
    return Request(given.checkpoint_dir, given.output_dir, given.device, bounds, given.march)
