"""Compile for a named instruction set level, and for nothing above it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from ..report import Failure


@dataclass(frozen=True)
class Level:
    """An instruction set as the C++ compiler and the code generator know it."""

    march: str
    vectors: str | None  # class in torch._inductor.cpu_vec_isa; None: no vector code of its own
    recorded: str  # what the package then says in AOTI_CPU_ISA


LEVELS = {
    "x86-64": Level("x86-64", None, "INVALID_VEC_ISA"),
    "x86-64-v2": Level("x86-64-v2", None, "INVALID_VEC_ISA"),
    "x86-64-v3": Level("x86-64-v3", "VecAVX2", "AVX2"),
    "x86-64-v4": Level("x86-64-v4", "VecAVX512", "AVX512"),
    "aarch64": Level("armv8-a", "VecNEON", "ASIMD"),
}


def default() -> str:
    return "aarch64" if platform.machine() in {"aarch64", "arm64"} else "x86-64-v3"


def restrict_vectors(level: Level) -> None:
    """Let the code generator see the vector instructions of `level` only.

    It has no setting for that: `cpp.simdlen=512` takes the first 512-bit set it finds, which on most
    AVX-512 machines is one with VNNI or AMX, beyond x86-64-v4. Must precede the first compilation.
    """
    from torch._inductor import cpu_vec_isa

    known = cpu_vec_isa.supported_vec_isa_list
    known[:] = [isa for isa in known if type(isa).__name__ == level.vectors]


def check_recorded(level: Level, recorded: str) -> None:
    """The package must say what its platform will say.

    Raises:
        Failure: compile_failed.
    """
    if recorded != level.recorded:
        raise Failure(
            "compile_failed",
            f"the engine was compiled for {recorded}, not for {level.march} ({level.recorded}): "
            f"does this machine have {level.march}?",
        )
