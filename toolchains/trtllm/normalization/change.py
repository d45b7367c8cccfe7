"""A change of one value of a spec, and the functions that propose changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

from toolchains.trtllm.context.build_context import BuildContext, Section


@dataclass(frozen=True)
class Change:
    """A value that a program of the release uses in place of the spec's."""

    rule: str  # id in data/rules.json, which states the releases that have it
    section: Section
    name: str
    value: JsonValue
    reason: str
    is_idle: bool = False  # the option has no effect in this build, whatever its value


# Yields changes for every release. The caller applies those whose rule is in force, and whose value differs.
Rewrite: TypeAlias = Callable[[BuildContext], Iterator[Change]]


def option_change(rule: str, name: str, value: JsonValue, reason: str) -> Change:
    return Change(rule, "options", name, value, reason)


def idle_option(context: BuildContext, rule: str, name: str, reason: str) -> Iterator[Change]:
    """Put an option without effect back to its default, so that its value makes no second key of the same engine."""
    if name in context.available_options:
        default = context.available_options[name].default
        yield Change(rule, "options", name, default, f"no effect: {reason}", is_idle=True)
