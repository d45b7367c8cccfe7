"""A worker without the complete sandbox refuses code and pickles of trusted models, and nothing else; in the sandbox,
what such code prints says nothing about the worker."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Fault
from tests.workers.sandbox.real import sandbox
from toolchains.aoti.failures import classify
from toolchains.toolchain import Command, Directories
from workers.programs import child
from workers.programs.child import Ended, ProcessLimits
from workers.reporting.failures import StageFailed
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StageView
from workers.scratch.workspace import Workspace
from workers.stage_run import StageRun


def stage_of(isolation: Isolation, inputs: Any = None, **facts: bool) -> StageRun:
    """A stage of a model with these facts, and with these inputs."""
    no_code = {"trusted": False, "remote_code": False, "has_pickle": False, "has_safetensors": True}
    all_facts = SimpleNamespace(**(no_code | facts))
    job = SimpleNamespace(facts=all_facts, spec=SimpleNamespace(model="file:/models/evil"), stage=Stage.CONVERT)
    standby = SimpleNamespace(take=lambda workspace, view: None)
    tools: Any = SimpleNamespace(isolation=isolation, limits=ProcessLimits(60, 60, 1), standby=standby)
    claim: Any = SimpleNamespace(work=SimpleNamespace(job=job, inputs=inputs or {}))
    joblog: Any = SimpleNamespace(say=lambda text: None)
    heartbeat: Any = SimpleNamespace(stop=threading.Event())
    folder = Path("/nowhere")
    return StageRun(tools, claim, Workspace(folder, Directories(folder, folder, folder)), joblog, heartbeat)


def refuse(isolation: Isolation, inputs: Any = None, **facts: bool) -> None:
    stage_of(isolation, inputs, **facts).refuse_foreign_code()


def files_of(*names: str) -> Any:
    return SimpleNamespace(files=[SimpleNamespace(path=name) for name in names])


@pytest.mark.parametrize("fact", ["remote_code", "has_pickle"])
def test_foreign_code_is_refused_without_the_sandbox(fact: str) -> None:
    with pytest.raises(StageFailed) as refusal:
        refuse(Isolation(obstacle="user.max_user_namespaces is 0"), trusted=True, **{fact: True})
    failure = refusal.value.failure
    assert (failure.cause, failure.retryable) == ("sandbox_missing", True)
    assert "file:/models/evil" in failure.detail
    assert "user.max_user_namespaces is 0" in failure.detail
    # The worker's own fault would quarantine it after some such models.
    assert failure.fault is Fault.FARM


def test_a_pickle_that_is_the_only_form_of_the_weights_is_refused_without_the_sandbox() -> None:
    with pytest.raises(StageFailed):
        refuse(Isolation(obstacle="user.max_user_namespaces is 0"), has_pickle=True, has_safetensors=False)


def test_pickles_of_a_second_model_are_refused_without_the_sandbox() -> None:
    weights = {"quant_ckpt_path": files_of("model.pt", "scale.pt")}
    with pytest.raises(StageFailed) as refusal:
        refuse(Isolation(obstacle="user.max_user_namespaces is 0"), weights)
    assert refusal.value.failure.cause == "sandbox_missing"
    refuse(sandbox(), weights)
    refuse(Isolation(), {"lora_dir.0": files_of("adapter_config.json", "adapter_model.safetensors")})


def test_other_models_are_not_refused() -> None:
    refuse(Isolation(), trusted=True)
    refuse(Isolation(), remote_code=True, has_pickle=True)  # not trusted: its code is never run


def test_foreign_code_runs_in_the_sandbox() -> None:
    refuse(sandbox(), trusted=True, remote_code=True, has_pickle=True)


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
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, bool], oom_killed: bool, fault: Fault
) -> None:
    """Three such models would quarantine every worker of the farm."""
    lies = Ended(1, "CUDA error: the GPU is lost\n", oom_killed=oom_killed)
    toolchain: Any = SimpleNamespace(
        plan=lambda job, directories: [Command(("true",))], classify=lambda stage, ended: classify(ended)
    )
    monkeypatch.setattr(StageRun, "toolchain", toolchain)
    monkeypatch.setattr(StageRun, "view", lambda self, command: StageView())
    monkeypatch.setattr(child, "run", lambda command, **_: lies)
    with pytest.raises(StageFailed) as failed:
        stage_of(Isolation(), **facts).run_programs()
    assert failed.value.failure.fault is fault
