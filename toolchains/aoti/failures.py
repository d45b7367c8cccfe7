"""Classify a failed program: it names the reason in its last line, unless a signal or a broken GPU ended it."""

from __future__ import annotations

import re

from enginefarm.wire.bodies import Failure, Fault
from toolchains.toolchain import Exit

# Printed by `programs/aoti_engine/report.py`.
_ERROR = re.compile(r"^\[enginefarm\] error (?P<code>[a-z_]+): (?P<detail>.+)$", re.MULTILINE)

# Messages of CUDA if the device, not the program, is at fault. Such a device fails every later program too.
_DEVICE_FAULT = re.compile(
    r"uncorrectable ECC error|unspecified launch failure|illegal memory access was encountered|GPU is lost"
    r"|CUDA-capable device\(s\) is/are busy or unavailable|fallen off the bus"
)

# code → (whose fault, whether another try can succeed, advice)
_CODES: dict[str, tuple[Fault, bool, str | None]] = {
    "unsupported_model": (Fault.CALLER, False, "GET /v1/toolchains says what aoti builds"),
    "unsupported_dtype": (Fault.CALLER, False, "ask for float32, float16 or bfloat16"),
    "bad_checkpoint": (Fault.CALLER, False, "mend the file, or save the model again with save_pretrained()"),
    "limits": (Fault.CALLER, False, "ask for smaller limits"),
    "missing_compiler": (Fault.WORKER, True, "install g++ on that worker"),
    "out_of_memory": (Fault.WORKER, False, "use a worker with more memory, or a smaller dtype or limits"),
    "compile_failed": (Fault.TOOLCHAIN, False, "the log has the compiler's messages"),
    "smoke_failed": (Fault.TOOLCHAIN, False, "the compiled engine does not agree with the model: see the log"),
}


def classify(ended: Exit) -> Failure:
    """Why a program failed. The most certain sign decides: the kernel, the device, the program's own last line."""
    peak = ""
    if ended.peak_memory:
        peak = f" (peak memory {ended.peak_memory / 2**30:.1f} GiB)"
    if ended.oom_killed:
        return _failure("out_of_memory", "the kernel killed the program for memory" + peak)
    device_fault = _DEVICE_FAULT.search(ended.tail)
    if device_fault:
        return Failure(
            cause="device_fault", fault=Fault.WORKER, detail=f"the GPU failed: {device_fault[0]}",
            advice="another worker is tried; look for Xid lines in that machine's kernel log", retryable=True,
        )  # fmt: skip
    # The smoke test's error line precedes that of the build, which repeats its reason.
    errors = list(_ERROR.finditer(ended.tail))
    if errors:
        return _failure(errors[-1]["code"], errors[-1]["detail"])
    # Any library may meet a full disk, so this error reaches the end of the program as a traceback without a code.
    if "No space left on device" in ended.tail:
        return Failure(
            cause="disk_full", fault=Fault.WORKER, detail="no space left on the worker's disk",
            advice="a build needs about three times the weights", retryable=True,
        )  # fmt: skip
    if ended.status < 0:
        return Failure(
            cause="killed", fault=Fault.WORKER, detail=f"the program was killed by signal {-ended.status}{peak}",
            advice="see the log, and the kernel log of the worker's machine", retryable=True,
        )  # fmt: skip
    # An unexpected error: its traceback ends with a line that names it.
    last_line = "it printed nothing"
    for line in reversed(ended.tail.splitlines()):
        if line.strip():
            last_line = line
            break
    return Failure(
        cause="toolchain_failed", fault=Fault.TOOLCHAIN,
        detail=f"the program ended with status {ended.status}: {last_line.strip()[:300]}",
        advice="the log has the full output",
    )  # fmt: skip


def _failure(code: str, detail: str) -> Failure:
    fault, retryable, advice = _CODES.get(code, (Fault.TOOLCHAIN, False, None))
    return Failure(cause=code, fault=fault, detail=detail[:500], advice=advice, retryable=retryable)
