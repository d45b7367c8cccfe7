"""What the lines of a program's output say of the stage that it is a part of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from enginefarm.contract.stage import Stage
from toolchains.toolchain import Report
from workers.stage_run import ProgramOutput, StageRun


def test_a_program_is_a_part_of_its_stage() -> None:
    said: list[Report] = []
    stage_run: Any = SimpleNamespace(
        joblog=SimpleNamespace(write=lambda data: None), job=SimpleNamespace(stage=Stage.BUILD),
        toolchain=SimpleNamespace(read_line=lambda stage, line: Report(float(line)) if line else Report(rank=1)),
        heartbeat=SimpleNamespace(report=said.append), peaks=SimpleNamespace(see=lambda report: None),
    )  # fmt: skip
    for span in ((0.0, 0.5), (0.5, 1.0)):
        lines = ProgramOutput(cast(StageRun, stage_run), span)
        for data in (b"0.2\n0.", b"98\n", b"\n"):
            lines.write(data)
    assert [report.progress for report in said] == [0.1, 0.49, None, 0.6, 0.99, None]
