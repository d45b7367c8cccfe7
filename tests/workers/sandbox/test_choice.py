"""ENGINEFARM_SANDBOX decides what a worker does on a machine that allows no complete sandbox."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from models.settings import Settings
from tests.workers.sandbox.real import sandbox
from workers.sandbox import bubblewrap
from workers.sandbox.choice import choose, hidden_paths


def settings(**values: str) -> Settings:
    required = {
        "DATABASE_URL": "sqlite:////farm/catalogue.db",
        "BROKER_URL": "redis://x",
        "STORE_URL": "file:///farm/store",
    }
    return Settings.from_environment({f"ENGINEFARM_{name}": value for name, value in (required | values).items()})


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find", lambda: None)


def test_the_sandbox_is_required_unless_the_setting_says_otherwise() -> None:
    sandbox()
    assert choose(settings()).complete


@pytest.mark.usefixtures("without_bubblewrap")
def test_required_does_not_start_and_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"no complete sandbox: bubblewrap 0\.8 or newer is not installed") as refusal:
        choose(settings())
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("without_bubblewrap")
def test_auto_keeps_what_it_can_and_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        isolation = choose(settings(SANDBOX="auto"))
    assert not isolation.complete
    assert {"seccomp", "no-new-privileges", "rlimits"} <= set(isolation.in_force)
    assert "sandbox" not in isolation.in_force
    assert "NO COMPLETE SANDBOX: bubblewrap" in caplog.text


def test_off_isolates_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        isolation = choose(settings(SANDBOX="off"))
    assert not isolation.complete
    assert isolation.in_force == ("none",)
    assert "NO SANDBOX" in caplog.text


def test_a_memory_limit_that_nothing_enforces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.sandbox.cgroup.delegated", lambda: None)
    with pytest.raises(ValueError, match="ENGINEFARM_STAGE_MEMORY_BYTES needs a delegated cgroup"):
        choose(settings(STAGE_MEMORY_BYTES="1000000", SANDBOX="auto"))


def test_everything_of_the_farm_that_the_settings_name_is_hidden() -> None:
    names = settings(
        SCRATCH="/farm/scratch", MODEL_ROOTS="/farm/models", SIGNING_KEY="/farm/signing.pem", WORKER_CACHE="/farm/cache"
    )
    expected = {
        "/farm/scratch",
        "/farm/cache",
        "/farm/models",
        "/farm/signing.pem",
        "/farm/store",
        "/farm/catalogue.db",
    }
    assert {Path(path) for path in expected} <= set(hidden_paths(names))


def test_the_former_setting_is_accepted_and_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings(OFFLINE_STAGES="true")
    assert "ENGINEFARM_OFFLINE_STAGES has no effect any more" in caplog.text
