"""Limit torch's code generator to an instruction set level, and check that the engine was compiled for it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from ..report import Failure


@dataclass(frozen=True)
class IsaLevel:
    """An instruction set as the C++ compiler and torch's code generator name it."""

    march: str  # value of the C++ compiler's -march
    vectors: str | None  # class in torch._inductor.cpu_vec_isa; None: the code generator emits no vector code
    recorded_isa: str  # value of AOTI_CPU_ISA in the metadata of a package compiled for this level


# On x86 the code generator has vector code from AVX2 on. Below, only the C++ compiler may use vectors of the level, and
# torch records "INVALID_VEC_ISA" because it emits no vector code.
LEVELS = {
    "x86-64": IsaLevel("x86-64", None, "INVALID_VEC_ISA"),
    "x86-64-v2": IsaLevel("x86-64-v2", None, "INVALID_VEC_ISA"),
    "x86-64-v3": IsaLevel("x86-64-v3", "VecAVX2", "AVX2"),
    "x86-64-v4": IsaLevel("x86-64-v4", "VecAVX512", "AVX512"),
    "aarch64": IsaLevel("armv8-a", "VecNEON", "ASIMD"),
}


def default_level() -> str:
    """The level to compile for if the caller names none: the lowest for which torch emits vector code."""
    return "aarch64" if platform.machine() in {"aarch64", "arm64"} else "x86-64-v3"


def restrict_vectors(level: IsaLevel) -> None:
    """Hide from the code generator all vector instructions but those of `level`.

    Call it before the first compilation. It edits torch's list of vector instruction sets in place, for this process.

    torch has no setting for this: `cpp.simdlen=512` takes the first 512-bit set of its list, which on most machines
    with AVX-512 includes VNNI or AMX, beyond x86-64-v4.
    """
    from torch._inductor import cpu_vec_isa

    supported = cpu_vec_isa.supported_vec_isa_list
    supported[:] = [vector_isa for vector_isa in supported if type(vector_isa).__name__ == level.vectors]


def check_recorded(level: IsaLevel, recorded: str) -> None:
    """Require that the package records the instruction set of `level`; `recorded` is its AOTI_CPU_ISA.

    Raises:
        Failure: it records another one (code `compile_failed`).
    """
    if recorded != level.recorded_isa:
        raise Failure(
            "compile_failed",
            f"the engine was compiled for {recorded}, not for {level.march} ({level.recorded_isa}): "
            f"does this machine have {level.march}?",
        )
