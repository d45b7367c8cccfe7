"""A worker refuses a stage of another SM; without the complete sandbox it refuses code and pickles of models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Fault
from tests.workers.sandbox.real import sandbox
from toolchains.toolchain import Needs
from workers.reporting.failures import BelongsElsewhere, StageFailed
from workers.sandbox.isolation import Isolation
from workers.stage.refusals import refuse_foreign_code, refuse_other_platform


def refuse(isolation: Isolation, inputs: Any = None, **facts: bool) -> None:
    """Refuse a conversion of a model with these facts and these inputs."""
    no_code = {"trusted": False, "remote_code": False, "has_pickle": False, "has_safetensors": True}
    all_facts = SimpleNamespace(**(no_code | facts))
    job = SimpleNamespace(facts=all_facts, spec=SimpleNamespace(model="file:/models/evil"), stage=Stage.CONVERT)
    claim: Any = SimpleNamespace(work=SimpleNamespace(job=job, inputs=inputs or {}))
    tools: Any = SimpleNamespace(isolation=isolation)
    refuse_foreign_code(claim, tools)


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
    monkeypatch.setattr("workers.stage.refusals.all_toolchains", lambda: {"trtllm": toolchain})
    job = SimpleNamespace(
        stage=Stage.CONVERT,
        toolchain="trtllm",
        version="1.0.0",
        sm=of_work,
        spec=SimpleNamespace(platform=SimpleNamespace(sm=of_spec)),
    )
    platform = SimpleNamespace(sm=of_worker)
    tools: Any = SimpleNamespace(identity=SimpleNamespace(fingerprint=SimpleNamespace(platform=platform)))
    claim: Any = SimpleNamespace(work=SimpleNamespace(job=job))
    if refusal is None:
        refuse_other_platform(claim, tools)
        return
    with pytest.raises(BelongsElsewhere, match=refusal) as refused:
        refuse_other_platform(claim, tools)
    assert refused.value.queue == "convert.trtllm.1.0.0.sm90"
