"""A worker without the complete sandbox refuses code and pickles of trusted models, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from enginefarm.wire.bodies import Fault
from tests.workers.sandbox.real import sandbox
from workers.failures import StageFailed
from workers.sandbox.isolation import Isolation
from workers.stage_run import StageRun


def refuse(isolation: Isolation, **facts: bool) -> None:
    all_facts = SimpleNamespace(**({"trusted": False, "remote_code": False, "has_pickle": False} | facts))
    job = SimpleNamespace(facts=all_facts, spec=SimpleNamespace(model="file:/models/evil"))
    stage_run: Any = SimpleNamespace(job=job, tools=SimpleNamespace(isolation=isolation))
    StageRun.refuse_foreign_code(cast(StageRun, stage_run))


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


def test_other_models_are_not_refused() -> None:
    refuse(Isolation(), trusted=True)
    refuse(Isolation(), remote_code=True, has_pickle=True)  # not trusted: its code is never run


def test_foreign_code_runs_in_the_sandbox() -> None:
    refuse(sandbox(), trusted=True, remote_code=True, has_pickle=True)
