"""Progress that a program prints becomes progress of its stage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from enginefarm.contract.stage import Stage
from toolchains.toolchain import Report
from workers.stage_run import ProgramOutput, StageRun


def test_the_progress_of_a_program_is_scaled_to_its_span_of_the_stage() -> None:
    reports: list[Report] = []
    stage_run: Any = SimpleNamespace(
        joblog=SimpleNamespace(write=lambda output: None), job=SimpleNamespace(stage=Stage.BUILD),
        toolchain=SimpleNamespace(read_line=lambda stage, line: Report(float(line)) if line else Report(rank=1)),
        heartbeat=SimpleNamespace(report=reports.append), peaks=SimpleNamespace(see=lambda report: None),
    )  # fmt: skip
    for span in ((0.0, 0.5), (0.5, 1.0)):
        lines = ProgramOutput(cast(StageRun, stage_run), span)
        for piece in (b"0.2\n0.", b"98\n", b"\n"):
            lines.write(piece)
    assert [report.progress for report in reports] == [0.1, 0.49, None, 0.6, 0.99, None]
