"""Give options their own names, and write their defaults out."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.adapters import adapter_model_options
from toolchains.trtllm.releases.release import switches_of_two_forms
from toolchains.trtllm.releases.reserved_options import reserved_options

# The two forms of a switch on a command line: a flag, or an option with a value.
_OTHER_VALUES: Mapping[bool | str, bool | str] = {"enable": True, "disable": False, True: "enable", False: "disable"}


def replace_aliases(context: BuildContext) -> tuple[BuildContext, list[Problem]]:
    """Give every option its own name. Both names together are left for `checks.option_values` to refuse."""
    options = dict(context.spec.options)
    notes = []
    for alias, name in context.release.option_aliases(context.facts.architecture).items():
        if alias in options and name in context.available_options and name not in options:
            options[name] = options.pop(alias)
            detail = f"{alias} is another name of {name}"
            notes.append(Problem(pointer=f"/options/{alias}", code="other_name", detail=detail, expected=name))
    return context.with_options(options), notes


def replace_stand_ins(context: BuildContext) -> tuple[BuildContext, list[Problem]]:
    """Write the option that replaced another, if its values are known to mean the same.

    A value that means nothing, or that contradicts the other option, is left for `checks.option_values` to refuse.
    """
    options = dict(context.spec.options)
    notes = []
    for name, reserved in reserved_options().items():
        replacement = reserved.only_with
        if replacement is None or name not in options or name in context.available_options:
            continue
        if replacement not in context.available_options:
            continue
        value = options[name]
        meaning = reserved.values.get(value) if isinstance(value, str) else None
        if meaning is None or options.get(replacement, meaning) != meaning:
            continue
        options.pop(name)
        options[replacement] = meaning
        notes.append(
            Problem(
                pointer=f"/options/{name}",
                code="other_name",
                detail=f"{name} {value} is {replacement} {meaning}: {reserved.why}",
                value=value,
                expected=f"{replacement} {meaning}",
            )
        )
    return context.with_options(options), notes


def replace_switch_values(context: BuildContext) -> tuple[BuildContext, list[Problem]]:
    """Write a switch as this release takes it: some are flags in one release, and enable or disable in another."""
    options = dict(context.spec.options)
    notes = []
    for name in sorted(switches_of_two_forms() & context.spec.options.keys()):
        value = context.spec.options[name]
        option = context.available_options.get(name)
        other_value = _OTHER_VALUES.get(value) if isinstance(value, bool | str) else None
        if option is None or other_value is None or option.accepts(value) or not option.accepts(other_value):
            continue
        options[name] = other_value
        notes.append(
            Problem(
                pointer=f"/options/{name}",
                code="other_value",
                detail=f"{value} of {name} is {other_value} in TensorRT-LLM {context.release.version}",
                value=value,
                expected=str(other_value),
            )
        )
    return context.with_options(options), notes


def with_defaults(context: BuildContext) -> BuildContext:
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
