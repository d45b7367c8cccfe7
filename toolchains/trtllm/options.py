"""The options that a caller wrote: which are known, which are sound, and what to say of the others."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from enginefarm.errors import Problem
from toolchains.trtllm.case import Case
from toolchains.trtllm.release import Descriptor, former, reserved


def schema(release: Descriptor) -> dict[str, Any]:
    """JSON Schema of `options` for every family of this release."""
    properties = {
        name: option.value_schema
        for architecture in release.architectures
        for name, option in release.options(architecture).items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Options of TensorRT-LLM {release.version}",
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "additionalProperties": False,
    }


def problems(case: Case) -> Iterator[Problem]:
    for name, value in case.spec.options.items():
        option = case.known.get(name)
        if option is None:
            yield _unknown(case, name)
        elif not option.accepts(value):
            yield Problem(
                pointer=f"/options/{name}",
                code="option_value",
                detail=f"{option.flag} of TensorRT-LLM {case.release.version} does not take this value",
                value=value,
                expected=option.expected,
            )


def _unknown(case: Case, name: str) -> Problem:
    version = case.release.version
    code, detail, remedy = "unknown_option", f"TensorRT-LLM {version} has no option {name}", _guess(case, name)
    other_names = case.release.other_names(case.facts.architecture)
    if name in reserved():
        code, detail = "reserved_option", f"{name} is not set under /options: {reserved()[name].why}"
        remedy = _instead(reserved()[name].instead)
    elif name in other_names:
        code, detail = "option_twice", f"{name} and {other_names[name]} are one option, and both are given"
        remedy = f"give only {other_names[name]}"
    elif name in former():
        gone = former()[name]
        code, detail = "former_option", f"{name} is gone since TensorRT-LLM {gone.gone_in}: {gone.why}"
        remedy = _instead(gone.instead)
    return Problem(pointer=f"/options/{name}", code=code, detail=detail, value=case.spec.options[name], remedy=remedy)


def _instead(pointer: str) -> str:
    return f"use {pointer}" if pointer else "remove it"


def _guess(case: Case, name: str) -> str:
    if close := get_close_matches(name, case.known, n=3):
        return f"did you mean {' or '.join(close)}?"
    return "GET /v1/toolchains lists the options of each version"
