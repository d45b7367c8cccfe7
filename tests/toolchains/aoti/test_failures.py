"""The cause of a failed program decides whether it is tried again."""

from __future__ import annotations

import pytest

from enginefarm.wire.bodies import Fault
from toolchains.aoti.failures import classify
from toolchains.toolchain import Exit


@pytest.mark.parametrize(
    ("ended", "cause", "retryable"),
    [
        (Exit(1, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"), "device_fault", True),
        (Exit(1, "CUDA error: uncorrectable ECC error encountered"), "device_fault", True),
        (Exit(-9, "", oom_killed=True), "out_of_memory", False),
        (Exit(-11, "compiling"), "killed", True),
        (Exit(1, "[enginefarm] error missing_compiler: no g++"), "missing_compiler", True),
    ],
)
def test_a_fault_of_the_worker_is_classified(ended: Exit, cause: str, retryable: bool) -> None:
    failure = classify(ended)
    assert (failure.cause, failure.retryable, failure.fault) == (cause, retryable, Fault.WORKER)
