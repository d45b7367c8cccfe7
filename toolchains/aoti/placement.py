"""Check that an engine runs on this machine before loading it: the runtime itself only prints a warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from enginefarm.contract.errors import InvalidRequest, PlatformMismatch, Problem
from enginefarm.contract.platform import Platform, differences
from enginefarm.node.detection import detect, package_version

# The fields that must be equal for an engine to load. The key has more fields, such as driver and memory.
_COMPARED_FIELDS = frozenset({"os", "arch", "cpu_isa", "gpu", "sm"})


def check(config: Mapping[str, Any], name: str) -> None:
    """Compare the engine's `config.json` with this machine; `name` is the engine's name in messages.

    Raises:
        InvalidRequest: config.json names no platform or no torch version.
        PlatformMismatch: with both values of every field that differs, one problem each.
    """
    try:
        engine_platform = Platform.model_validate(config["platform"])
        engine_torch = str(config["versions"]["torch"])
    except (KeyError, TypeError, ValidationError) as error:
        raise InvalidRequest(f"{name}: config.json does not say which platform and torch it needs: {error}") from error

    # A machine with a GPU runs CPU engines too, so the engine decides which of its devices counts.
    this_platform = detect(prefer_gpu=engine_platform.device == "cuda").platform
    mismatches = differences(engine_platform, this_platform, _COMPARED_FIELDS, "branch")
    problems = []
    for field, (needed, actual) in mismatches.items():
        problems.append(_problem(f"/platform/{field}", needed, actual, "resolve an engine for this machine"))
    # The runtime that loads an engine is part of torch.
    installed_torch = package_version("torch")
    if engine_torch != installed_torch:
        problems.append(_problem("/versions/torch", engine_torch, installed_torch, f"install torch {engine_torch}"))
    if problems:
        details = "; ".join(problem.detail for problem in problems)
        raise PlatformMismatch(f"{name} does not run here: {details}", problems=problems)


def _problem(pointer: str, needed: object, actual: object, remedy: str) -> Problem:
    detail = f"{pointer.rpartition('/')[2]} must be {needed} and is {actual}"
    return Problem(
        pointer=pointer, code="platform_mismatch", detail=detail, value=actual, expected=str(needed), remedy=remedy
    )
