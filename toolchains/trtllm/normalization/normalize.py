"""Normalize a spec: the values that the programs will use, with a note for each one that is not the caller's."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import BuildSpec
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.advice import find_advice
from toolchains.trtllm.normalization.change import Rewrite
from toolchains.trtllm.normalization.options import (
    replace_aliases,
    replace_stand_ins,
    replace_switch_values,
    with_defaults,
)
from toolchains.trtllm.normalization.rewrites import PRECISION_REWRITES, REWRITES
from toolchains.trtllm.releases.rule_table import in_force


def normalize(context: BuildContext) -> tuple[BuildSpec, list[Problem]]:
    """Normalize the context's spec. Normalizing the result again changes nothing.

    Options that the release does not have, and values that it does not accept, stay as they are: the checks report
    them.

    Returns:
        The normalized spec, and notes: one for each change, and advice on the result.
    """
    # The precision decides which options there are, and options need their own names before they get defaults.
    context, precision_notes = _rewrite(context, PRECISION_REWRITES)
    context, alias_notes = replace_aliases(context)
    context, stand_in_notes = replace_stand_ins(context)
    context, switch_notes = replace_switch_values(context)
    own_name_notes = [*alias_notes, *stand_in_notes, *switch_notes]
    context = with_defaults(context)
    context, rewrite_notes = _rewrite(context, REWRITES)
    return context.spec, [*precision_notes, *own_name_notes, *rewrite_notes, *find_advice(context)]


def _rewrite(context: BuildContext, rewrites: Iterable[Rewrite]) -> tuple[BuildContext, list[Problem]]:
    notes = []
    for rewrite in rewrites:
        # All changes of one rewrite look at the same context, whatever the first of them changes.
        for change in tuple(rewrite(context)):
            if not in_force(change.rule, context.release.version):
                continue
            if change.section == "options" and not context.is_valid(change.name):
                continue
            value = context.value(change.section, change.name)
            if value == change.value:
                continue
            notes.append(
                Problem(
                    pointer=f"/{change.section}/{change.name}",
                    code=change.rule,
                    detail=f"{_in_words(value)} becomes {_in_words(change.value)}: {change.reason}",
                    value=value,
                    expected=str(change.value),
                )
            )
            context = context.with_value(change.section, change.name, change.value)
    return context, notes


def _in_words(value: JsonValue) -> str:
    """A value in the text of a note."""
    if value is None:
        return "unset"
    return str(value)
