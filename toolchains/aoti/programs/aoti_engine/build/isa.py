"""Compile for a named instruction set level, and use no instruction above it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from ..report import Failure


@dataclass(frozen=True)
class Level:
    """An instruction set as the C++ compiler and torch's code generator name it."""

    march: str  # value of the C++ compiler's -march
    vectors: str | None  # class in torch._inductor.cpu_vec_isa; None: the code generator emits no vector code
    recorded: str  # value of AOTI_CPU_ISA in the metadata of a package compiled for this level


# On x86 the code generator has vector code from AVX2 on. Below, only the C++ compiler may use vectors of the level.
LEVELS = {
    "x86-64": Level("x86-64", None, "INVALID_VEC_ISA"),
    "x86-64-v2": Level("x86-64-v2", None, "INVALID_VEC_ISA"),
    "x86-64-v3": Level("x86-64-v3", "VecAVX2", "AVX2"),
    "x86-64-v4": Level("x86-64-v4", "VecAVX512", "AVX512"),
    "aarch64": Level("armv8-a", "VecNEON", "ASIMD"),
}


def default_level() -> str:
    """The level to compile for if the caller names none."""
    return "aarch64" if platform.machine() in {"aarch64", "arm64"} else "x86-64-v3"


def restrict_vectors(level: Level) -> None:
    """Hide from the code generator all vector instructions but those of `level`. Call before the first compilation.

    torch has no setting for this: `cpp.simdlen=512` takes the first 512-bit set of its list, which on most machines
    with AVX-512 includes VNNI or AMX, beyond x86-64-v4.
    """
    from torch._inductor import cpu_vec_isa

    supported = cpu_vec_isa.supported_vec_isa_list
    supported[:] = [isa for isa in supported if type(isa).__name__ == level.vectors]


def check_recorded(level: Level, recorded: str) -> None:
    """Require that the package records the instruction set of its platform; `recorded` is its AOTI_CPU_ISA.

    Raises:
        Failure: compile_failed.
    """
    if recorded != level.recorded:
        raise Failure(
            "compile_failed",
            f"the engine was compiled for {recorded}, not for {level.march} ({level.recorded}): "
            f"does this machine have {level.march}?",
        )
