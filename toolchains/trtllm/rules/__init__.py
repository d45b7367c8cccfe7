"""What makes a build impossible, known before a GPU is taken. Each rule is named as in `data/rules.json`."""

from __future__ import annotations

from enginefarm.errors import Problem
from toolchains.trtllm.case import Case
from toolchains.trtllm.rule import in_force
from toolchains.trtllm.rules import (
    adapters,
    attention,
    drafts,
    halves,
    hardware,
    model,
    options,
    precision,
    ranks,
    volume,
)

_CHECKS = (*model.CHECKS, *precision.CHECKS, *hardware.CHECKS, *ranks.CHECKS, *volume.CHECKS, *attention.CHECKS,
           *options.CHECKS, *drafts.CHECKS, *adapters.CHECKS, *halves.CHECKS)  # fmt: skip


def problems(case: Case) -> list[Problem]:
    """Everything that the release is known to refuse, or to get wrong silently, at once."""
    found = (problem for check in _CHECKS for problem in check(case))
    return [problem for problem in found if in_force(problem.code, case.release.version)]
