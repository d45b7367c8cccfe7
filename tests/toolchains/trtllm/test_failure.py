from __future__ import annotations

import pytest

from enginefarm.wire import Fault, Stage
from toolchains.toolchain import Exit
from toolchains.trtllm import TOOLCHAIN


@pytest.mark.parametrize(
    ("ended", "cause", "fault", "retryable"),
    [
        (Exit(-9, "", peak_memory=64 << 30, oom_killed=True), "out_of_memory", Fault.WORKER, False),
        (Exit(137, "Killed", oom_killed=True), "out_of_memory", Fault.WORKER, False),
        (Exit(137, "Killed"), "killed", Fault.WORKER, True),
        (Exit(-9, ""), "killed", Fault.WORKER, True),
        (Exit(1, "torch.OutOfMemoryError: CUDA out of memory. Tried"), "gpu_out_of_memory", Fault.CALLER, False),
        (Exit(1, "[x] [TRT] [E] 2: Error Code 2: OutOfMemory (no"), "gpu_out_of_memory", Fault.CALLER, False),
        (Exit(1, "OSError: [Errno 28] No space left on device"), "disk_full", Fault.WORKER, True),
        (Exit(2, "trtllm-build: error: unrecognized arguments: --x 1"), "option_refused", Fault.FARM, False),
        (Exit(2, "error: argument --gemm_plugin: invalid choice: 'x'"), "option_refused", Fault.FARM, False),
        (Exit(1, "Traceback\nKeyError: 'architecture'\n"), "toolchain_failed", Fault.TOOLCHAIN, False),
        (Exit(-11, ""), "toolchain_failed", Fault.TOOLCHAIN, True),
    ],
)
def test_cause(ended: Exit, cause: str, fault: Fault, retryable: bool) -> None:
    failure = TOOLCHAIN.classify(Stage.BUILD, ended)
    assert (failure.cause, failure.fault, failure.retryable) == (cause, fault, retryable)
    assert failure.advice


def test_skipped_tactics_are_no_lack_of_memory() -> None:
    tail = "[TRT] [W] UNSUPPORTED_STATESkipping tactic 2 due to insufficient memory\nAssertionError: other"
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(1, tail)).cause == "toolchain_failed"


def test_the_detail_says_what_was_said() -> None:
    assert "KeyError: 'architecture'" in TOOLCHAIN.classify(Stage.BUILD, Exit(1, "KeyError: 'architecture'\n\n")).detail
    assert "SIGSEGV" in TOOLCHAIN.classify(Stage.BUILD, Exit(-11, "")).detail
    assert "64.0 GiB" in TOOLCHAIN.classify(Stage.CONVERT, Exit(-9, "", 64 << 30, oom_killed=True)).detail
