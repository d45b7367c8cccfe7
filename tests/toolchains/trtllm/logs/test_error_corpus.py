"""Whole texts that failed programs printed, as users posted them, and what the farm says of each.

`error_corpus.json`: `source` is an issue of NVIDIA/TensorRT-LLM (`be#`: triton-inference-server/tensorrtllm_backend), a
file of it, or the library that prints the text. Paths, long stacks and names of machines are shortened.
`normal_output.txt`: what programs print that succeed, warnings and harmless errors included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Failure
from toolchains.toolchain import Exit
from toolchains.trtllm import TOOLCHAIN

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "error_corpus.json").read_bytes())
NORMAL_OUTPUT = (Path(__file__).parent / "normal_output.txt").read_text().splitlines()


def _classify(row: dict[str, Any]) -> Failure:
    ended = Exit(row["status"], "\n".join(row["text"]), argv=tuple(row.get("argv", ())))
    return TOOLCHAIN.classify(Stage(row["stage"]), ended)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row['source']}: {row['cause']}") for row in ROWS])
def test_a_posted_text_has_its_cause_detail_and_advice(row: dict[str, Any]) -> None:
    failure = _classify(row)
    assert (failure.cause, failure.retryable) == (row["cause"], row["retryable"]), failure.detail
    assert row.get("detail", "") in failure.detail
    assert row.get("advice", "") in (failure.advice or "")
    for frame in row.get("not_in_detail", ()):
        assert frame not in failure.detail


@pytest.mark.parametrize("stage", list(Stage))
def test_the_output_of_a_program_that_succeeds_shows_no_cause(stage: Stage) -> None:
    for line in NORMAL_OUTPUT:
        assert TOOLCHAIN.classify(stage, Exit(1, line)).cause == "toolchain_failed", line
    assert TOOLCHAIN.classify(stage, Exit(1, "\n".join(NORMAL_OUTPUT))).cause == "toolchain_failed"


def test_normal_output_around_an_error_hides_it_nowhere() -> None:
    for row in ROWS:
        lines = [*NORMAL_OUTPUT, *row["text"], *NORMAL_OUTPUT[-8:]]
        assert _classify({**row, "text": lines}).cause == row["cause"], row["source"]


@pytest.mark.parametrize(("before", "after"), [("[1,0]<stderr>:", ""), ("[rank3]: ", ""), ("\x1b[1;31m", "\x1b[0m")])
def test_the_prefix_of_a_rank_and_a_colour_change_no_cause(before: str, after: str) -> None:
    for row in ROWS:
        lines = [f"{before}{line}{after}" for text in row["text"] for line in text.splitlines()]
        assert _classify({**row, "text": lines}).cause == row["cause"], row["source"]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["cause"] != "toolchain_failed"], ids=lambda row: row["source"]
)
def test_a_later_unknown_error_is_never_given_the_cause_of_an_earlier_one(row: dict[str, Any]) -> None:
    later = (
        'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\nValueError: nobody knows this'
    )
    failure = _classify({**row, "text": [*row["text"], later], "status": 1})
    assert failure.cause == "toolchain_failed"
    assert failure.detail.splitlines()[0].endswith("ValueError: nobody knows this")


def test_an_unknown_failure_shows_its_ten_last_errors_and_not_the_tail() -> None:
    errors = [f"[TRT-LLM] [E] layer {number} is wrong" for number in range(20)]
    noise = (
        "[TRT-LLM] [I] Set gemm_plugin to auto.\n1       0x7b2f125ba395 libnvinfer.so(+0x51395) [0x7b2f125ba395]\n" * 30
    )
    detail = TOOLCHAIN.classify(Stage.BUILD, Exit(1, "\n".join(errors) + "\n" + noise)).detail
    first, *others = detail.splitlines()
    assert first == f"build ended with status 1: {errors[19]}"
    assert others == errors[10:19]


def test_an_error_that_every_rank_prints_is_shown_once() -> None:
    text = "[TRT-LLM] [E] the layer is wrong\n" * 8
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(1, text)).detail == (
        "build ended with status 1: [TRT-LLM] [E] the layer is wrong"
    )


def test_the_stacks_of_eight_ranks_do_not_push_the_assertion_out_of_the_search() -> None:
    """About a hundred frames follow each: of C++, of the signal handler of Open MPI and of Python."""
    frames = "".join(f"{number}      0x5617f82709fc _PyFunction_Vectorcall + 124\n" for number in range(100))
    text = "  what():  [TensorRT-LLM][ERROR] Assertion failed: FMHA kernels are not found !\n" + frames * 8
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(-6, text)).cause == "no_attention_kernel"


def test_a_line_of_another_rank_in_a_traceback_is_not_its_exception() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "/usr/local/bin/trtllm-build", line 8, in <module>\n'
        "[TRT-LLM] [I] Set nccl_plugin to None.\n"
        "    sys.exit(main())\n"
        "OSError: [Errno 28] No space left on device\n"
    )
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(1, text)).cause == "disk_full"


def test_an_ignored_exception_without_a_traceback_hides_no_later_one() -> None:
    text = (
        "Exception ignored in: <_io.TextIOWrapper name='<stdout>'>\n"
        "BrokenPipeError: [Errno 32] Broken pipe\n"
        "Traceback (most recent call last):\n"
        '  File "/usr/local/bin/trtllm-build", line 8, in <module>\n'
        "    sys.exit(main())\n"
        "MemoryError\n"
    )
    assert TOOLCHAIN.classify(Stage.BUILD, Exit(1, text)).cause == "out_of_memory"


def test_the_corpus_has_every_field_text_and_sixty_more() -> None:
    field = sum(row.get("field", False) for row in ROWS)
    assert field >= 24
    assert len(ROWS) - field >= 60
