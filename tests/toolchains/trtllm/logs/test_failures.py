"""A failure has the cause of its message in `failures.json`, or that of how the program ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Fault
from tests.doubles.option_parser import DATA
from toolchains.toolchain import Exit
from toolchains.trtllm import TOOLCHAIN

CAUSES: list[dict[str, Any]] = json.loads((DATA / "failures.json").read_bytes())["causes"]
MESSAGES = [
    pytest.param(cause, message, Stage(stage), id=f"{cause['cause']}-{stage}-{number}")
    for cause in CAUSES
    for number, message in enumerate(cause["messages"])
    for stage in cause.get("stages", list(Stage))
]

# Causes that another worker, or the same one later, may not have.
RETRYABLE = {
    *("disk_full", "no_gpu", "gpu_broken", "broken_checkpoint", "plugin_missing"),
    *("timing_cache_not_saved", "installation_broken", "driver_mismatch", "cuda_library"),
    *("gpu_busy", "gpu_not_ready", "too_many_processes"),
    *("mpi_failed", "nccl_failed", "disk_failed", "killed", "too_few_gpus"),
}


def _traceback(message: dict[str, Any]) -> str:
    """What must stand above the message: each alternative of a pattern is plain text."""
    if message.get("alone") or not {"near", "raised_in"} & message.keys():
        return ""
    file = message.get("raised_in", "model.py").replace("\\", "")
    return f'Traceback (most recent call last):\n  File "{file}", line 1, in {message.get("near")}\n    raise\n'


@pytest.mark.parametrize(("cause", "message", "stage"), MESSAGES)
def test_a_message_has_the_cause_of_the_table(cause: dict[str, Any], message: dict[str, Any], stage: Stage) -> None:
    output = f"[TRT-LLM] [I] Set gemm_plugin to auto.\n{_traceback(message)}{message['says']}\nsome other line\n"
    failure = TOOLCHAIN.classify(stage, Exit(1, output))
    assert (failure.cause, failure.fault, failure.retryable) == (cause["cause"], cause["fault"], cause["retryable"])
    assert failure.detail == message["says"][:300]
    assert failure.advice == (cause["advice"] if isinstance(cause["advice"], str) else cause["advice"][stage])
    assert message["source"]


def test_no_fault_of_the_caller_or_the_toolchain_is_retried() -> None:
    assert {cause["cause"] for cause in CAUSES if cause["retryable"]} == RETRYABLE
    assert not any(cause["retryable"] for cause in CAUSES if cause["fault"] in (Fault.CALLER, Fault.TOOLCHAIN))


@pytest.mark.parametrize(
    ("ended", "cause", "fault", "retryable"),
    [
        (Exit(-9, "", peak_memory=64 << 30, oom_killed=True), "out_of_memory", Fault.WORKER, False),
        (Exit(137, "Killed", oom_killed=True), "out_of_memory", Fault.WORKER, False),
        (Exit(137, "Killed"), "killed", Fault.WORKER, True),
        (Exit(-9, ""), "killed", Fault.WORKER, True),
        (Exit(1, "Traceback\nValueError: no such thing\n"), "toolchain_failed", Fault.TOOLCHAIN, False),
        (Exit(-11, ""), "toolchain_failed", Fault.TOOLCHAIN, True),
        (Exit(-6, ""), "toolchain_failed", Fault.TOOLCHAIN, False),
        (Exit(-11, "ValueError: no such thing\n"), "toolchain_failed", Fault.TOOLCHAIN, False),
    ],
)
def test_a_program_without_a_message_is_classified_by_how_it_ended(
    ended: Exit, cause: str, fault: Fault, retryable: bool
) -> None:
    failure = TOOLCHAIN.classify(Stage.BUILD, ended)
    assert (failure.cause, failure.fault, failure.retryable) == (cause, fault, retryable)
    assert failure.advice


def test_a_line_that_only_follows_from_an_error_is_passed_over() -> None:
    """A build in several processes ends so: TensorRT's own message comes first, the assertion last."""
    output = (
        "[TRT] [E] 9: [standardEngineBuilder.cpp::buildEngine::2266] Error Code 9: Internal Error "
        "(Networks with FP8 precision require hardware with FP8 support.)\n"
        "[TRT-LLM] [E] Engine building failed, please check the error log.\n"
        "TypeError: a bytes-like object is required, not 'NoneType'\n"
        "AssertionError: Engine building failed, please check error log.\n"
    )
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(1, output)).cause == "unsupported_precision"


def test_both_sides_of_a_mismatch_are_in_the_detail() -> None:
    output = "[TRT] [E] 6: ... is generated on an incompatible device, expecting compute 9.0 got compute 8.9"
    assert "expecting compute 9.0 got compute 8.9" in TOOLCHAIN.classify(Stage.BUILD, Exit(1, output)).detail


@pytest.mark.parametrize(
    "line",
    [
        "[TRT] [W] UNSUPPORTED_STATESkipping tactic 2 due to insufficient memory on requested size of 157500",
        "[TRT] [E] 9: Skipping tactic 0x0000000000000000 due to exception [autotuner.cpp:get_best_tactics:1520]",
        "[TRT-LLM] [W] Invalid timing cache, using freshly created one",
        "FutureWarning: You can avoid this message in future by passing the argument `trust_remote_code=True`.",
    ],
)
def test_a_harmless_line_is_no_cause(line: str) -> None:
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(1, f"{line}\nValueError: other")).cause == "toolchain_failed"


def test_the_detail_names_the_last_line_the_signal_and_the_peak_memory() -> None:
    assert "ValueError: other" in TOOLCHAIN.classify(Stage.BUILD, Exit(1, "ValueError: other\n\n")).detail
    assert "SIGSEGV" in TOOLCHAIN.classify(Stage.BUILD, Exit(-11, "")).detail
    assert "64.0 GiB" in TOOLCHAIN.classify(Stage.CONVERT, Exit(-9, "", 64 << 30, oom_killed=True)).detail
