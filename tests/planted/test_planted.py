"""The table of planted faults fits the code, so that `make planted` shows something."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.planted.__main__ import plant
from tests.planted.guards import GUARDS, Guard
from tests.servers.server import CHECKOUT


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_fault_can_be_planted(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / guard.file).parent.mkdir(parents=True)
    shutil.copy(CHECKOUT / guard.file, tmp_path / guard.file)
    plant(guard, tmp_path)
    compile((tmp_path / guard.file).read_text(), guard.file, "exec")
    assert all((CHECKOUT / test.partition("::")[0]).exists() for test in guard.tests.split())
