"""REST bodies are imported by every process, so they load no library that asks the hardware or the network."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"psutil", "pynvml", "httpx", "urllib3", "cryptography", "click", "rich"}


@pytest.mark.parametrize(
    "module", ["enginefarm.wire.bodies", "enginefarm.wire.engine_record", "enginefarm.contract.work"]
)
def test_a_fresh_interpreter_loads_no_heavy_library_with(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
