"""The limits that a release has no option for."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.errors import Problem
from toolchains.trtllm.case import Case
from toolchains.trtllm.rewrites import derived_opt_num_tokens


def problems(case: Case) -> Iterator[Problem]:
    limits, known = case.limits, case.release.build_table.by_name
    if "opt_num_tokens" in known or limits.opt_num_tokens in (None, derived_opt_num_tokens(limits)):
        return
    yield Problem(
        pointer="/limits/opt_num_tokens",
        code="limit_unknown",
        detail=f"trtllm-build of TensorRT-LLM {case.release.version} has no option for it",
        value=limits.opt_num_tokens,
        expected="null",
        remedy="leave it out",
    )
