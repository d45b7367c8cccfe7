"""A check of the output runs in a process that the worker can end, and its facts can be stored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.farm.running_farm import QUICK
from toolchains.toolchain import Directories, InvalidOutput
from workers.programs.output_check import CheckDied, OutputChecker, OutputCheckers, require_storable


def job(check: str) -> Job:
    spec = {"model": "file:/m", "toolchain": {"name": "quick", "version": "1.0"}, "options": {"check": check}}
    facts = ModelFacts(
        architecture="LlamaForCausalLM", weight_bytes=8, has_safetensors=True, has_pickle=False, has_tokenizer=False,
        remote_code=False,
    )  # fmt: skip
    return Job(
        stage=Stage.BUILD, toolchain="quick", version="1.0", spec=BuildSpec.model_validate(spec), facts=facts,
        platform=None,
    )  # fmt: skip


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> Iterator[OutputChecker]:
    monkeypatch.setattr(sys, "path", [str(QUICK), *sys.path])
    checker = OutputChecker()
    yield checker
    checker.close()


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    directories = Directories(tmp_path / "source", tmp_path / "output", tmp_path / "scratch")
    for directory in (directories.source, directories.output, directories.scratch):
        directory.mkdir()
    (directories.output / "rank0.engine").write_bytes(b"engine")
    return directories


def check(checker: OutputChecker, how: str, directories: Directories, seconds: float = 30) -> dict[str, Any]:
    deadline = time.monotonic() + seconds

    def keep_going() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    return checker.check(job(how), directories, keep_going)


def test_the_first_check_uses_the_server_that_the_worker_started(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(QUICK), *sys.path])
    servers: list[object] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        server = popen(*arguments, **options)
        servers.append(server)
        return server

    monkeypatch.setattr(subprocess, "Popen", start)
    checkers = OutputCheckers()
    checkers.start()
    try:
        assert len(servers) == 1
        assert checkers.check(job("facts"), directories, lambda: None) == {"size": 6}
        assert len(servers) == 1, "the attempt waited for a second server"
    finally:
        checkers.close()


def test_the_facts_of_a_complete_output_are_returned(checker: OutputChecker, directories: Directories) -> None:
    assert check(checker, "facts", directories) == {"size": 6}
    began = time.monotonic()
    for _ in range(5):
        check(checker, "facts", directories)
    assert time.monotonic() - began < 2, "a check forks; it does not start an interpreter"


def test_an_incomplete_output_is_refused_with_the_reason_of_the_toolchain(
    checker: OutputChecker, directories: Directories
) -> None:
    (directories.output / "rank0.engine").unlink()
    with pytest.raises(InvalidOutput, match=r"rank0\.engine is missing or empty"):
        check(checker, "facts", directories)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("nul", "its facts are not JSON that every reader takes"),
        ("nan", "its facts are not JSON that every reader takes"),
        ("deep", "nested more than 32 deep"),
        ("long", "longer than 1048576 bytes"),
        ("memory", r"more than the check may have to read \(MemoryError\)"),
        ("recursion", r"more than the check may have to read \(RecursionError\)"),
    ],
)
def test_a_check_that_a_program_led_astray_refuses_the_output(
    checker: OutputChecker, directories: Directories, how: str, text: str
) -> None:
    with pytest.raises(InvalidOutput, match=text):
        check(checker, how, directories)
    assert check(checker, "facts", directories) == {"size": 6}


@pytest.mark.parametrize(("how", "text"), [("crash", "ended with status -11"), ("raise", "ZeroDivisionError")])
def test_a_check_that_crashes_takes_no_worker_with_it(
    checker: OutputChecker, directories: Directories, how: str, text: str
) -> None:
    with pytest.raises(CheckDied, match=text):
        check(checker, how, directories)
    assert check(checker, "facts", directories) == {"size": 6}


def test_a_check_that_hangs_ends_when_the_worker_says_so(checker: OutputChecker, directories: Directories) -> None:
    check(checker, "facts", directories)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        check(checker, "hang", directories, seconds=0.5)
    assert time.monotonic() - began < 5
    assert check(checker, "facts", directories) == {"size": 6}


def test_a_stopped_or_killed_server_is_replaced(checker: OutputChecker, directories: Directories) -> None:
    """A program of the same user can do that where there is no sandbox."""
    check(checker, "facts", directories)
    assert checker._server is not None
    os.kill(checker._server.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        check(checker, "facts", directories, seconds=0.5)
    assert check(checker, "facts", directories) == {"size": 6}
    os.kill(checker._server.pid, signal.SIGKILL)
    checker._server.wait()
    assert check(checker, "facts", directories) == {"size": 6}


def test_the_check_knows_no_secret_of_the_worker(
    checker: OutputChecker, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEFARM_S3_SECRET_KEY", "hush")
    assert "hush" not in str(check(checker, "environment", directories))


def test_facts_of_usual_size_can_be_stored() -> None:
    require_storable({"effective": {"build_config": {"max_batch_size": 8, "flags": [1, None, "x"]}}, "differences": []})
