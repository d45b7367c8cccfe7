"""A stage reports progress, refuses a hostile output, and ends within a moment when it is told to or out of time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from enginefarm.contract.manifest import Manifest
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Fault
from toolchains.toolchain import Command, InvalidOutput, Needs, Report
from workers.programs.child import Ended, ProcessLimits
from workers.reporting.failures import BelongsElsewhere, OutputRefused, StageFailed, StageStopped, explain
from workers.sandbox.launched import LaunchedSupervisor
from workers.sandbox.mount_view import StageView
from workers.scratch.workspace import Workspace
from workers.stage_run import Peaks, ProgramOutput, StageRun


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


@pytest.fixture
def stage_run(tmp_path: Path) -> StageRun:
    workspace = Workspace.make(tmp_path)
    (workspace.directories.output / "config.json").write_bytes(b"{}")
    tools: Any = SimpleNamespace(
        limits=ProcessLimits(wall_seconds=60, silence_seconds=60, kill_seconds=1),
        checker=SimpleNamespace(check=lambda job, directories, keep_going: {}),
    )  # fmt: skip
    claim: Any = SimpleNamespace(work=SimpleNamespace(job=SimpleNamespace(stage=Stage.CONVERT)))
    heartbeat: Any = SimpleNamespace(stop=threading.Event(), message=None)
    joblog: Any = SimpleNamespace(say=lambda text: None)
    return StageRun(tools, claim, workspace, joblog, heartbeat)


def test_the_supervisor_of_a_program_hears_of_the_renewals(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervised: Any = SimpleNamespace(lease_renewed=[].append)

    def run(command: Command, *, on_start: Callable[[LaunchedSupervisor], None], **_: object) -> Ended:
        on_start(supervised)
        return Ended(0, "")

    toolchain = SimpleNamespace(plan=lambda job, directories: [Command(("true",))])
    monkeypatch.setattr(StageRun, "toolchain", toolchain)
    monkeypatch.setattr(StageRun, "view", lambda self, command: StageView())
    monkeypatch.setattr("workers.programs.child.run", run)
    tools = cast(Any, stage_run.tools)
    tools.isolation = SimpleNamespace(in_force=())
    tools.standby = SimpleNamespace(take=lambda workspace, view: None)
    stage_run.run_programs()
    assert stage_run.heartbeat.on_renewal is supervised.lease_renewed


@pytest.mark.parametrize(
    ("of_work", "of_spec", "of_worker", "refusal"),
    [
        ("90", "90", "90", None),
        ("90", "90", "80", "laid out for SM 90, and this worker has SM 80"),
        ("90", "90", None, "laid out for SM 90, and this worker has no GPU"),
        (None, "90", "90", None),
        (None, "90", "80", "laid out for SM 90, and this worker has SM 80"),
    ],
    ids=["its SM", "another", "no GPU", "work of version 1", "work of version 1, another"],
)
def test_a_conversion_for_one_sm_is_handed_over_to_workers_with_it(
    of_work: str | None, of_spec: str, of_worker: str | None, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = SimpleNamespace(needs=lambda job: Needs(0, 0, 0, 0, same_sm=True))
    monkeypatch.setattr("workers.stage_run.all_toolchains", lambda: {"trtllm": toolchain})
    job = SimpleNamespace(
        stage=Stage.CONVERT,
        toolchain="trtllm",
        version="1.0.0",
        sm=of_work,
        spec=SimpleNamespace(platform=SimpleNamespace(sm=of_spec)),
    )
    platform = SimpleNamespace(sm=of_worker)
    tools: Any = SimpleNamespace(
        limits=ProcessLimits(wall_seconds=60, silence_seconds=60, kill_seconds=1),
        identity=SimpleNamespace(fingerprint=SimpleNamespace(platform=platform)),
    )
    claim: Any = SimpleNamespace(work=SimpleNamespace(job=job))
    nothing: Any = None
    run = StageRun(tools, claim, nothing, nothing, nothing)
    if refusal is None:
        run.refuse_other_platform()
        return
    with pytest.raises(BelongsElsewhere, match=refusal) as refused:
        run.refuse_other_platform()
    assert refused.value.queue == "convert.trtllm.1.0.0.sm90"


def test_the_checked_output_has_a_manifest(stage_run: StageRun) -> None:
    assert [entry.path for entry in stage_run.check().manifest.files] == ["config.json"]


def test_a_link_in_the_output_is_a_failure_that_is_not_tried_again(stage_run: StageRun) -> None:
    (stage_run.directories.output / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(OutputRefused) as refused:
        stage_run.check()
    failure = explain(refused.value)
    assert (failure.cause, failure.fault, failure.retryable) == ("output_refused", Fault.TOOLCHAIN, False)
    assert "passwd is a link" in failure.detail


def test_a_link_that_appears_after_the_check_is_not_hashed(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> dict[str, Any]:
        (stage_run.directories.output / "passwd").symlink_to("/etc/passwd")
        return {}

    monkeypatch.setattr(stage_run.tools.checker, "check", check)
    with pytest.raises(OutputRefused, match="passwd is a link"):
        stage_run.check()


def test_files_longer_than_the_disk_limit_are_refused(stage_run: StageRun) -> None:
    stage_run.tools = replace_limits(stage_run, disk_bytes=1000)
    (stage_run.directories.output / "long").write_bytes(b"x" * 2000)
    with pytest.raises(OutputRefused, match="longer than 1000 bytes together"):
        stage_run.check()


def replace_limits(stage_run: StageRun, **limits: Any) -> Any:
    return SimpleNamespace(**{**vars(stage_run.tools), "limits": replace(stage_run.tools.limits, **limits)})


def test_a_cancel_ends_hashing(stage_run: StageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*_: object) -> dict[str, Any]:
        stage_run.heartbeat.stop.set()
        return {}

    monkeypatch.setattr(stage_run.tools.checker, "check", check)
    with pytest.raises(StageStopped):
        stage_run.check()


@pytest.mark.parametrize(
    ("step", "fault", "retryable"), [("fetch", Fault.FARM, True), ("check", Fault.TOOLCHAIN, False)]
)
def test_a_stage_out_of_time_ends_in_whatever_step_it_is(
    stage_run: StageRun, step: str, fault: Fault, retryable: bool
) -> None:
    stage_run.deadline = time.monotonic() + 0.2
    with pytest.raises(StageFailed) as failed, stage_run.step(step):
        Manifest.of_directory(Path(__file__).parent, watch=lambda _: wait_and(stage_run.watch))
    failure = failed.value.failure
    assert (failure.cause, failure.fault, failure.retryable) == ("timed_out", fault, retryable)
    assert f"limit of 60 s; it ended in the step {step}" in failure.detail


def wait_and(watch: Callable[[int], None]) -> None:
    time.sleep(0.05)
    watch(1)


def test_a_check_that_gives_no_sign_ends_at_the_silence_limit(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(job: object, directories: object, keep_going: Callable[[], None]) -> dict[str, Any]:
        while True:
            keep_going()

    stage_run.tools = replace_limits(stage_run, silence_seconds=0.2)
    monkeypatch.setattr(stage_run.tools.checker, "check", check)
    with pytest.raises(StageFailed, match="printed nothing"):
        stage_run.check()


def test_texts_of_a_failure_can_be_stored() -> None:
    failure = explain(InvalidOutput("dtype is \0\udcff" + "x" * 10_000))
    assert "dtype is \ufffd\ufffdx" in failure.detail
    assert len(failure.detail) == 2000


def test_a_reader_of_lines_that_fails_is_logged_once_and_does_not_fail_the_stage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read_line(stage: Stage, line: str) -> Report:
        return Report(float(line))

    reports: list[Report] = []
    stage_run: Any = SimpleNamespace(
        joblog=SimpleNamespace(write=lambda output: None), job=SimpleNamespace(stage=Stage.BUILD, toolchain="third"),
        toolchain=SimpleNamespace(read_line=read_line), heartbeat=SimpleNamespace(report=reports.append), peaks=Peaks(),
    )  # fmt: skip
    ProgramOutput(cast(StageRun, stage_run), (0.0, 1.0)).write(b"no number\nnone again\n0.5\n")
    assert [report.progress for report in reports] == [0.5]
    assert [record.message for record in caplog.records] == ["third cannot read a line of its program"]
