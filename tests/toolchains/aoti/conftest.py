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
    process = run("convert.py", root / "scratch", "--model-dir", tiny_model, "--output-dir", root / "out")
    assert process.returncode == 0, process.stderr
    return root / "out"


@pytest.fixture(scope="session")
def tiny_build(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The engine's directory, and the standard output of build.py."""
    root = tmp_path_factory.mktemp("engine")
    limits = [word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    directories = ("--checkpoint-dir", tiny_checkpoint, "--output-dir", root / "out")
    process = run("build.py", root / "scratch", *directories, "--device", "cpu", *limits)
    assert process.returncode == 0, process.stderr
    return root / "out", process.stdout


@pytest.fixture(scope="session")
def tiny_engine(tiny_build: tuple[Path, str]) -> Path:
    return tiny_build[0]
