"""From the spec that was asked for to the one that counts, with a note for each value that is another."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import BuildSpec
from toolchains.trtllm.context import adapters
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization import FIRST, REWRITES, Change, Rewrite
from toolchains.trtllm.normalization.advice import advice
from toolchains.trtllm.releases.rule_table import in_force


def normalise(context: BuildContext) -> tuple[BuildSpec, list[Problem]]:
    """Idempotent. What is unknown or unsound stays as it was written, for `preflight` to refuse."""
    context, first = _rewritten(context, FIRST)
    context, named = _one_name_each(context)
    context, rewritten = _rewritten(_with_defaults(context), REWRITES)
    return context.spec, [*first, *named, *rewritten, *advice(context)]


def _rewritten(context: BuildContext, rewrites: Iterable[Rewrite]) -> tuple[BuildContext, list[Problem]]:
    notes = []
    for rewrite in rewrites:
        for change in tuple(rewrite(context)):
            if in_force(change.rule, context.release.version) and _alters(change, context):
                notes.append(_note(change, context))
                context = context.with_value(change.section, change.name, change.value)
    return context, notes


def _one_name_each(context: BuildContext) -> tuple[BuildContext, list[Problem]]:
    options, notes = dict(context.spec.options), list[Problem]()
    for other, name in context.release.option_aliases(context.facts.architecture).items():
        if other in options and name in context.available_options and name not in options:
            options[name] = options.pop(other)
            detail = f"{other} is another name of {name}"
            notes.append(Problem(pointer=f"/options/{other}", code="other_name", detail=detail, expected=name))
    return context.with_options(options), notes


def _with_defaults(context: BuildContext) -> BuildContext:
    """Adapters that are not there are not written: keys from before there was an option for them are what they were."""
    filled = {name: option.default for name, option in context.available_options.items()}
    options = {**filled, **{name: _plain(context, name) for name in context.spec.options}}
    unset = {name for name in adapters.adapter_model_options() if options.get(name) is None}
    return context.with_options({name: value for name, value in options.items() if name not in unset})


def _plain(context: BuildContext, name: str) -> JsonValue:
    """JSON does not tell 32.0 from 32, a command line does."""
    value, option = context.spec.options[name], context.available_options.get(name)
    if option and option.type == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _alters(change: Change, context: BuildContext) -> bool:
    if change.section == "options" and not context.is_valid(change.name):
        return False
    return context.value(change.section, change.name) != change.value


def _note(change: Change, context: BuildContext) -> Problem:
    given = context.value(change.section, change.name)
    return Problem(
        pointer=f"/{change.section}/{change.name}",
        code=change.rule,
        detail=f"{'unset' if given is None else given} becomes {'unset' if change.value is None else change.value}: "
        + change.why,
        value=given,
        expected=str(change.value),
    )
