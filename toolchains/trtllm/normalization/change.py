"""A value that counts instead of the one given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

from toolchains.trtllm.context.build_context import BuildContext, Section


@dataclass(frozen=True)
class Change:
    rule: str  # as in data/rules.json, which says in which releases it counts
    section: Section
    name: str
    value: JsonValue
    why: str
    idle: bool = False  # the option has no effect, so that its value says nothing of the engine


Rewrite: TypeAlias = Callable[[BuildContext], Iterator[Change]]


def option(rule: str, name: str, value: JsonValue, why: str) -> Change:
    return Change(rule, "options", name, value, why)


def idle(context: BuildContext, rule: str, name: str, why: str) -> Iterator[Change]:
    """An option that cannot act, whatever its value, is left at its default."""
    if name in context.available_options:
        yield Change(rule, "options", name, context.available_options[name].default, f"no effect: {why}", idle=True)
