"""Normalize a spec: the values that the programs will use, with a note for each one that is not the caller's."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import BuildSpec
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.advice import find_advice
from toolchains.trtllm.normalization.change import Change, Rewrite
from toolchains.trtllm.normalization.rewrites import PRECISION_REWRITES, REWRITES
from toolchains.trtllm.releases.adapters import adapter_model_options
from toolchains.trtllm.releases.rule_table import in_force


def normalize(context: BuildContext) -> tuple[BuildSpec, list[Problem]]:
    """Normalize the context's spec. Normalizing the result again changes nothing.

    Options that the release does not have, and values that it does not accept, stay as they are: the checks report
    them.

    Returns:
        The normalized spec, and notes: one for each change, and advice on the result.
    """
    context, precision_notes = _rewrite(context, PRECISION_REWRITES)
    context, alias_notes = _replace_aliases(context)
    context = _with_defaults(context)
    context, rewrite_notes = _rewrite(context, REWRITES)
    return context.spec, [*precision_notes, *alias_notes, *rewrite_notes, *find_advice(context)]


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
            if value != change.value:
                notes.append(_note(change, value))
                context = context.with_value(change.section, change.name, change.value)
    return context, notes


def _note(change: Change, value: JsonValue) -> Problem:
    before = "unset" if value is None else value
    after = "unset" if change.value is None else change.value
    return Problem(
        pointer=f"/{change.section}/{change.name}",
        code=change.rule,
        detail=f"{before} becomes {after}: {change.reason}",
        value=value,
        expected=str(change.value),
    )


def _replace_aliases(context: BuildContext) -> tuple[BuildContext, list[Problem]]:
    """Give every option its own name. Both names together are left for `checks.option_values` to refuse."""
    options = dict(context.spec.options)
    notes = []
    for alias, name in context.release.option_aliases(context.facts.architecture).items():
        if alias in options and name in context.available_options and name not in options:
            options[name] = options.pop(alias)
            detail = f"{alias} is another name of {name}"
            notes.append(Problem(pointer=f"/options/{alias}", code="other_name", detail=detail, expected=name))
    return context.with_options(options), notes


def _with_defaults(context: BuildContext) -> BuildContext:
    """Write every default out, so that a spec with the default and one without it have one key."""
    options: dict[str, JsonValue] = {name: option.default for name, option in context.available_options.items()}
    for name, value in context.spec.options.items():
        option = context.available_options.get(name)
        # JSON does not tell 32.0 from 32, a command line does.
        if option and option.type == "int" and isinstance(value, float) and value.is_integer():
            value = int(value)
        options[name] = value
    # Unset adapters are not written: the keys of specs from before the option existed stay what they were.
    for name in adapter_model_options():
        if options.get(name) is None:
            options.pop(name, None)
    return context.with_options(options)
