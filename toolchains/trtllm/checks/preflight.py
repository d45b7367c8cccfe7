"""Find everything that makes a build impossible, before a GPU is taken.

Each problem's code is the id of a rule in `data/rules.json`; a check that yields another code raises KeyError here.
Only the checks of a single option's value (`option_values`) have codes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks import (
    adapters,
    attention,
    drafts,
    feasibility,
    limits,
    lora_support,
    option_conflicts,
    release_parts,
    tensor_size,
)
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.checks.machine import gpus, hardware, ranks
from toolchains.trtllm.checks.models import encoder_decoder, model, model_features, vision
from toolchains.trtllm.checks.option_values import find_option_problems
from toolchains.trtllm.checks.precisions import precision, shards, unsupported_precisions
from toolchains.trtllm.checks.precisions.legal_values import with_legal_values
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.rule_table import in_force

# The order is that of the problems in an answer.
_CHECKS: tuple[Check, ...] = (
    *feasibility.CHECKS,
    *limits.CHECKS,
    *model.CHECKS,
    *model_features.CHECKS,
    *precision.CHECKS,
    *unsupported_precisions.CHECKS,
    *gpus.CHECKS,
    *hardware.CHECKS,
    *release_parts.CHECKS,
    *ranks.CHECKS,
    *shards.CHECKS,
    *tensor_size.CHECKS,
    *attention.CHECKS,
    *option_conflicts.CHECKS,
    *drafts.CHECKS,
    *adapters.CHECKS,
    *lora_support.CHECKS,
    *encoder_decoder.CHECKS,
    *vision.CHECKS,
)


def find_problems(context: BuildContext) -> tuple[Problem, ...]:
    """Everything that the release is known to refuse or to get wrong silently, at once."""
    problems = [*find_option_problems(context), *problems_by_rules(context)]
    return tuple(with_legal_values(context, problems, problems_by_rules))


def problems_by_rules(context: BuildContext) -> Iterator[Problem]:
    """The problems of all but the options, one after the other, without the legal values."""
    for check in _CHECKS:
        for problem in check(context):
            if in_force(problem.code, context.release.version):
                yield problem
