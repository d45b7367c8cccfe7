"""The arguments of the build program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from . import isa
from .engine_limits import EngineLimits


@dataclass(frozen=True)
class Request:
    """What to compile, for which device, and where to write the engine."""

    checkpoint: Path
    output: Path
    device: Literal["cpu", "cuda"]
    limits: EngineLimits
    isa_level: str  # a name in `isa.LEVELS`; a GPU engine uses it for its host code only

    @classmethod
    def parse(cls, argv: Sequence[str] | None) -> Self:
        """Read the command line. Prints usage and exits with status 2 if it is wrong."""
        parser = argparse.ArgumentParser(prog="build.py", description="checkpoint → engine")
        parser.add_argument("--checkpoint-dir", type=Path, required=True)
        parser.add_argument("--output-dir", type=Path, required=True)
        parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
        for name in ("max-batch-size", "max-input-len", "max-seq-len"):
            parser.add_argument(f"--{name}", type=int, required=True)
        parser.add_argument("--march", choices=tuple(isa.LEVELS), default=isa.default_level())
        arguments = parser.parse_args(argv)
        limits = EngineLimits(arguments.max_batch_size, arguments.max_input_len, arguments.max_seq_len)
        return cls(arguments.checkpoint_dir, arguments.output_dir, arguments.device, limits, arguments.march)
