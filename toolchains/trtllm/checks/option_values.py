"""The options that a caller wrote: which are known, which are sound, and what to say of the others."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from itertools import product
from typing import Any

from packaging.version import Version

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import Precision
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.conversion import conversion
from toolchains.trtllm.releases.draft_heads import available_modes
from toolchains.trtllm.releases.engine_part import closed_options
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import precision_recipes
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases, releases_with_option
from toolchains.trtllm.releases.reserved_options import former_options, reserved_options


def schema(release: ReleaseDescriptor) -> dict[str, Any]:
    """JSON Schema of `options` for every family and precision of this release."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Options of TensorRT-LLM {release.version}",
        "type": "object",
        "properties": _properties(release.series),
        "additionalProperties": False,
    }


@cache
def _properties(series: str) -> dict[str, Any]:
    release = next(release for release in all_releases() if release.series == series)
    found: dict[str, list[dict[str, Any]]] = {}
    for option in _all_options(release):
        schemas = found.setdefault(option.name, [])
        if option.value_schema not in schemas:
            schemas.append(option.value_schema)
    return {name: _joined(schemas) for name, schemas in sorted(found.items())}


def _all_options(release: ReleaseDescriptor) -> Iterator[Option]:
    """Of both programs, for every family and precision."""
    yield from release.build_options.values()
    for architecture, quantization, kv_cache in product(release.architectures, *_precisions()):
        precision = Precision(quantization=quantization, kv_cache=kv_cache)
        if made := conversion(release, architecture, precision, None):
            yield from made.options.values()
    for architecture in release.architectures:
        for draft in available_modes(release, architecture):
            if made := conversion(release, architecture, Precision(), None, draft):
                yield from made.all_options.values()


def _precisions() -> tuple[list[str | None], list[str | None]]:
    return [None, *precision_recipes().quantization], [None, *precision_recipes().kv_cache]


def _joined(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Scripts may give one name different values: what any of them takes."""
    return schemas[0] if len(schemas) == 1 else {"description": schemas[0]["description"], "anyOf": schemas}


def problems(context: BuildContext) -> Iterator[Problem]:
    for name, value in context.spec.options.items():
        option = context.available_options.get(name)
        if option is None:
            yield _unknown(context, name)
        elif not option.accepts(value):
            yield Problem(
                pointer=f"/options/{name}",
                code="option_value",
                detail=f"{option.flag} of TensorRT-LLM {context.release.version} does not take this value",
                value=value,
                expected=option.expected,
            )


def _unknown(context: BuildContext, name: str) -> Problem:
    code, detail, remedy = next(_reasons(context, name))
    return Problem(
        pointer=f"/options/{name}", code=code, detail=detail, value=context.spec.options[name], remedy=remedy
    )


def _reasons(context: BuildContext, name: str) -> Iterator[tuple[str, str, str]]:
    """Why the option is refused: code, detail and remedy. The first is the best."""
    version = context.release.version
    other_names = context.release.option_aliases(context.facts.architecture)
    if name in other_names and other_names[name] in context.available_options:
        detail = f"{name} and {other_names[name]} are one option, and both are given"
        yield "option_twice", detail, f"give only {other_names[name]}"
    gone = former_options().get(name)
    if gone and Version(version) >= Version(gone.removed_in):
        detail = f"{name} is gone since TensorRT-LLM {gone.removed_in}: {gone.why}"
        yield "former_option", detail, _instead(gone.instead)
    if hint := closed_options(context.facts.architecture).get(name, reserved_options().get(name)):
        yield "reserved_option", f"{name} is not set under /options: {hint.why}", _instead(hint.instead)
    yield from _of_others(context, name)
    yield "unknown_option", f"TensorRT-LLM {version} has no option {name}", _guess(context, name)


def _of_others(context: BuildContext, name: str) -> Iterator[tuple[str, str, str]]:
    """What is known of the option from other families and other releases."""
    version, seen = context.release.version, releases_with_option(name)
    if version in seen:
        detail = f"the conversion of {context.facts.architecture} in TensorRT-LLM {version} has no option {name}"
        yield "unknown_option", detail, _guess(context, name)
    elif seen and Version(seen[-1]) > Version(version):
        detail = f"TensorRT-LLM {version} has no option {name}: {seen[-1]} is the first release known to have it"
        yield "newer_option", detail, f"remove it, or build with {seen[-1]} or newer"
    elif seen and Version(seen[0]) < Version(version):
        detail = f"TensorRT-LLM {version} has no option {name}: {seen[0]} is the last release known to have it"
        yield "former_option", detail, "remove it"
    elif seen:
        detail = (
            f"no option {name} of TensorRT-LLM {version} is proven: releases before and after it take it in two ways"
        )
        yield "unknown_option", detail, "remove it"


def _instead(pointer: str) -> str:
    return f"use {pointer}" if pointer else "remove it"


def _guess(context: BuildContext, name: str) -> str:
    if close := get_close_matches(name, context.available_options, n=3):
        return f"did you mean {' or '.join(close)}?"
    return "GET /v1/toolchains lists the options of each version"
