from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.installation import make_installation
from tests.toolchains.trtllm.build_contexts import VERSION


@pytest.fixture
def version() -> str:
    """Parametrise it for another release."""
    return VERSION


@pytest.fixture
def installation(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TensorRT-LLM of doubles that this process finds; returns its directory."""
    directory = tmp_path / "tensorrt_llm"
    environment = make_installation(directory, version)
    monkeypatch.setenv("PATH", environment["PATH"])
    monkeypatch.setenv("ENGINEFARM_TRTLLM_EXAMPLES", environment["ENGINEFARM_TRTLLM_EXAMPLES"])
    return directory
