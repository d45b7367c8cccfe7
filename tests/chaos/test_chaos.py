"""A short, seeded chaos run; `make chaos MINUTES=20` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, POOLER_KILLED
from tests.chaos.run import Plan, run
from tests.servers.pgbouncer import pgbouncer_program

_SEED = 4


@pytest.mark.timeout(540)  # it takes a little more than a minute, longer on a busy machine
def test_a_farm_keeps_its_promises_under_faults(tmp_path: Path) -> None:
    plan = Plan(
        _SEED, seconds=20, pause_seconds=1.0, settings={}, workers=3, ask_seconds=0.4, build_seconds=1.0, once=True,
    )  # fmt: skip
    result = run(plan, tmp_path)
    assert result.verdict.finds == []
    expected = {fault.name for fault in FAULTS if not fault.is_rare} - (
        set() if pgbouncer_program() else {POOLER_KILLED}
    )
    assert set(result.struck) >= expected
    assert result.book.accepted
    assert result.verdict.engines
    assert result.checks
