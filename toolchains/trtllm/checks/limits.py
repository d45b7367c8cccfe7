"""The limits that a release has no option for."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext


def problems(context: BuildContext) -> Iterator[Problem]:
    if "opt_num_tokens" in context.release.build_table.by_name or context.limits.opt_num_tokens is None:
        return
    yield Problem(
        pointer="/limits/opt_num_tokens",
        code="limit_unknown",
        detail=f"trtllm-build of TensorRT-LLM {context.release.version} has no option for it",
        value=context.limits.opt_num_tokens,
        expected="null",
        remedy="leave it out",
    )
