"""What makes a build impossible, known before a GPU is taken. Each rule is named as in `data/rules.json`."""

from __future__ import annotations

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks import adapters, attention, drafts, hardware, model, precision, ranks
from toolchains.trtllm.checks import encoder_decoder as halves
from toolchains.trtllm.checks import option_conflicts as options
from toolchains.trtllm.checks import tensor_size as volume
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.rule_table import in_force

_CHECKS = (*model.CHECKS, *precision.CHECKS, *hardware.CHECKS, *ranks.CHECKS, *volume.CHECKS, *attention.CHECKS,
           *options.CHECKS, *drafts.CHECKS, *adapters.CHECKS, *halves.CHECKS)  # fmt: skip


def problems(context: BuildContext) -> list[Problem]:
    """Everything that the release is known to refuse, or to get wrong silently, at once."""
    found = (problem for check in _CHECKS for problem in check(context))
    return [problem for problem in found if in_force(problem.code, context.release.version)]
