"""One tiny model, converted and built once: a build is half a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolchains.aoti import tiny
from tests.toolchains.aoti.running import run

LIMITS = {"max_batch_size": 2, "max_input_len": 24, "max_seq_len": 48}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    ended = run("convert.py", root / "scratch", "--model-dir", tiny_model, "--output-dir", root / "out")
    assert ended.returncode == 0, ended.stderr
    return root / "out"


@pytest.fixture(scope="session")
def tiny_build(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The engine's directory, and what the program said on its standard output."""
    root = tmp_path_factory.mktemp("engine")
    limits = [word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    places = ("--checkpoint-dir", tiny_checkpoint, "--output-dir", root / "out")
    ended = run("build.py", root / "scratch", *places, "--device", "cpu", *limits)
    assert ended.returncode == 0, ended.stderr
    return root / "out", ended.stdout


@pytest.fixture(scope="session")
def tiny_engine(tiny_build: tuple[Path, str]) -> Path:
    return tiny_build[0]
