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
from toolchains.aoti.failures import classify
from toolchains.toolchain import Command, InvalidOutput
from workers.programs import child
from workers.programs.child import Ended, ProcessLimits
from workers.reporting.failures import OutputRefused, StageFailed, StageStopped, explain
from workers.sandbox.isolation import Isolation
from workers.sandbox.launched import LaunchedSupervisor
from workers.sandbox.mount_view import StageView
from workers.scratch.workspace import Workspace
from workers.stage.run import StageRun


@pytest.fixture
def stage_run(tmp_path: Path) -> StageRun:
    workspace = Workspace.make(tmp_path)
    (workspace.directories.output / "config.json").write_bytes(b"{}")
    tools: Any = SimpleNamespace(
        limits=ProcessLimits(wall_seconds=60, silence_seconds=60, kill_seconds=1),
        checker=SimpleNamespace(check=lambda job, directories, keep_going: {}),
        isolation=Isolation(),
        program_environment={"CUDA_VISIBLE_DEVICES": "GPU-1"},
        standby=SimpleNamespace(take=lambda workspace, view: None),
    )  # fmt: skip
    claim: Any = SimpleNamespace(work=SimpleNamespace(job=SimpleNamespace(stage=Stage.CONVERT), inputs={}))
    heartbeat: Any = SimpleNamespace(stop=threading.Event(), message=None)
    joblog: Any = SimpleNamespace(say=lambda text: None)
    return StageRun(tools, claim, workspace, joblog, heartbeat)


def test_the_supervisor_of_a_program_hears_of_the_renewals(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervised: Any = SimpleNamespace(lease_renewed=[].append)

    def run(command: Command, *, on_start: Callable[[LaunchedSupervisor], None], **_: object) -> Ended:
        assert command.environment == {"CUDA_VISIBLE_DEVICES": "GPU-1"}, "of its slot"
        on_start(supervised)
        return Ended(0, "")

    toolchain = SimpleNamespace(plan=lambda job, directories: [Command(("true",))])
    monkeypatch.setattr(StageRun, "toolchain", toolchain)
    monkeypatch.setattr(StageRun, "view", lambda self, command: StageView())
    monkeypatch.setattr(child, "run", run)
    stage_run.run_programs()
    assert stage_run.heartbeat.on_renewal is supervised.lease_renewed


def test_the_checked_output_has_a_manifest(stage_run: StageRun) -> None:
    assert [entry.path for entry in stage_run.check().manifest.files] == ["config.json"]


@pytest.mark.parametrize(
    ("isolation", "free_bytes", "leaves_room"),
    [(Isolation(obstacle="AppArmor"), 1 << 40, False), (Isolation(), 1 << 40, True), (Isolation(), 1000, False)],
    ids=["no sandbox", "room", "a full disk"],
)
def test_the_next_attempt_begins_early_only_with_room_and_a_sandbox(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch, isolation: Isolation, free_bytes: int, leaves_room: bool
) -> None:
    monkeypatch.setattr(Isolation, "complete", property(lambda self: not self.obstacle))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free_bytes))
    cast(Any, stage_run.tools).isolation = isolation
    assert stage_run.leaves_room() is leaves_room


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
        Manifest.of_directory(Path(__file__).parents[1], watch=lambda _: wait_and(stage_run.watch))
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


@pytest.mark.parametrize(
    ("facts", "oom_killed", "fault"),
    [
        ({"trusted": True, "remote_code": True}, False, Fault.TOOLCHAIN),
        ({"trusted": True, "has_pickle": True}, False, Fault.TOOLCHAIN),
        ({"trusted": True}, False, Fault.WORKER),
        ({"trusted": True, "remote_code": True}, True, Fault.WORKER),  # the kernel says it, not the program
    ],
)
def test_a_models_own_code_cannot_blame_the_worker(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch, facts: dict[str, bool], oom_killed: bool, fault: Fault
) -> None:
    """Three such models would quarantine every worker of the farm."""
    lies = Ended(1, "CUDA error: the GPU is lost\n", oom_killed=oom_killed)
    toolchain: Any = SimpleNamespace(
        plan=lambda job, directories: [Command(("true",))], classify=lambda stage, ended: classify(ended)
    )
    monkeypatch.setattr(StageRun, "toolchain", toolchain)
    monkeypatch.setattr(StageRun, "view", lambda self, command: StageView())
    monkeypatch.setattr(child, "run", lambda command, **_: lies)
    no_code = {"trusted": False, "remote_code": False, "has_pickle": False, "has_safetensors": True}
    cast(Any, stage_run.job).facts = SimpleNamespace(**(no_code | facts))
    with pytest.raises(StageFailed) as failed:
        stage_run.run_programs()
    assert failed.value.failure.fault is fault
