"""From the spec that was asked for to the one that counts, with a note for each value that is another."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import BuildSpec
from toolchains.trtllm.context import adapters
from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.normalization import FIRST, REWRITES, Change, Rewrite
from toolchains.trtllm.normalization.advice import remarks
from toolchains.trtllm.releases.rule_table import in_force


def normalise(case: Case) -> tuple[BuildSpec, list[Problem]]:
    """Idempotent. What is unknown or unsound stays as it was written, for `preflight` to refuse."""
    case, first = _rewritten(case, FIRST)
    case, named = _one_name_each(case)
    case, rewritten = _rewritten(_with_defaults(case), REWRITES)
    return case.spec, [*first, *named, *rewritten, *remarks(case)]


def _rewritten(case: Case, rewrites: Iterable[Rewrite]) -> tuple[Case, list[Problem]]:
    notes = []
    for rewrite in rewrites:
        for change in tuple(rewrite(case)):
            if in_force(change.rule, case.release.version) and _alters(change, case):
                notes.append(_note(change, case))
                case = case.with_value(change.section, change.name, change.value)
    return case, notes


def _one_name_each(case: Case) -> tuple[Case, list[Problem]]:
    options, notes = dict(case.spec.options), list[Problem]()
    for other, name in case.release.other_names(case.facts.architecture).items():
        if other in options and name in case.known and name not in options:
            options[name] = options.pop(other)
            detail = f"{other} is another name of {name}"
            notes.append(Problem(pointer=f"/options/{other}", code="other_name", detail=detail, expected=name))
    return case.with_options(options), notes


def _with_defaults(case: Case) -> Case:
    """Adapters that are not there are not written: keys from before there was an option for them are what they were."""
    filled = {name: option.default for name, option in case.known.items()}
    options = {**filled, **{name: _plain(case, name) for name in case.spec.options}}
    unset = {name for name in adapters.model_options() if options.get(name) is None}
    return case.with_options({name: value for name, value in options.items() if name not in unset})


def _plain(case: Case, name: str) -> JsonValue:
    """JSON does not tell 32.0 from 32, a command line does."""
    value, option = case.spec.options[name], case.known.get(name)
    if option and option.type == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _alters(change: Change, case: Case) -> bool:
    if change.section == "options" and not case.sound(change.name):
        return False
    return case.value(change.section, change.name) != change.value


def _note(change: Change, case: Case) -> Problem:
    given = case.value(change.section, change.name)
    return Problem(
        pointer=f"/{change.section}/{change.name}",
        code=change.rule,
        detail=f"{'unset' if given is None else given} becomes {'unset' if change.value is None else change.value}: "
        + change.why,
        value=given,
        expected=str(change.value),
    )
