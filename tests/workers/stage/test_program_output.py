"""Output of programs reports progress, and a line that no reader expected costs a warning, not the stage."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from toolchains.toolchain import Report
from workers.stage.program_output import Peaks, ProgramOutput


def output_of(
    read_line: Callable[[Stage, str], Report | None], span: tuple[float, float], reports: list[Report]
) -> ProgramOutput:
    toolchain: Any = SimpleNamespace(read_line=read_line)
    job: Any = SimpleNamespace(stage=Stage.BUILD, toolchain="third")
    joblog: Any = SimpleNamespace(write=lambda output: None)
    heartbeat: Any = SimpleNamespace(report=reports.append)
    return ProgramOutput(toolchain, job, span, joblog=joblog, heartbeat=heartbeat, peaks=Peaks())


def test_the_progress_of_a_program_is_scaled_to_its_span_of_the_stage() -> None:
    def read_line(stage: Stage, line: str) -> Report:
        return Report(float(line)) if line else Report(rank=1)

    reports: list[Report] = []
    for span in ((0.0, 0.5), (0.5, 1.0)):
        lines = output_of(read_line, span, reports)
        for piece in (b"0.2\n0.", b"98\n", b"\n"):
            lines.write(piece)
    assert [report.progress for report in reports] == [0.1, 0.49, None, 0.6, 0.99, None]


def test_a_reader_of_lines_that_fails_is_logged_once_and_does_not_fail_the_stage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read_line(stage: Stage, line: str) -> Report:
        return Report(float(line))

    reports: list[Report] = []
    output_of(read_line, (0.0, 1.0), reports).write(b"no number\nnone again\n0.5\n")
    assert [report.progress for report in reports] == [0.5]
    assert [record.message for record in caplog.records] == ["third cannot read a line of its program"]
