"""Whether an engine runs on this machine, decided before any of it is loaded: the runtime itself only warns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from enginefarm.contract.errors import InvalidRequest, PlatformMismatch, Problem
from enginefarm.contract.platform import Platform, differences
from enginefarm.node.detection import detect, package_version

# What a loaded engine needs alike. The rest of a platform is for the key, where drivers and memory count too.
_BOUND = frozenset({"os", "arch", "cpu_isa", "gpu", "sm"})


def check(config: Mapping[str, Any], name: str) -> None:
    """Compare the engine's `config.json` with this machine; `name` is for the message.

    Raises:
        InvalidRequest: the engine does not say where it runs.
        PlatformMismatch: with every field that differs, both values, and one problem for each.
    """
    try:
        needed = Platform.model_validate(config["platform"])
        torch = str(config["versions"]["torch"])
    except (KeyError, TypeError, ValidationError) as error:
        raise InvalidRequest(f"{name}: config.json does not say which platform and torch it needs: {error}") from error
    here = detect(prefer_gpu=needed.device == "cuda").platform
    unlike = {f"platform/{field}": pair for field, pair in differences(needed, here, _BOUND, "branch").items()}
    if torch != (installed := package_version("torch")):
        unlike["versions/torch"] = (torch, installed)
    if unlike:
        raise PlatformMismatch(
            f"{name} does not run here: " + "; ".join(_said(field, *pair) for field, pair in unlike.items()),
            problems=[_problem(field, *pair) for field, pair in unlike.items()],
        )


def _said(field: str, needed: object, found: object) -> str:
    return f"{field.rpartition('/')[2]} must be {needed} and is {found}"


def _problem(field: str, needed: object, found: object) -> Problem:
    return Problem(
        pointer=f"/{field}",
        code="platform_mismatch",
        detail=_said(field, needed, found),
        value=found,
        expected=str(needed),
        remedy=f"install torch {needed}" if field == "versions/torch" else "resolve an engine for this machine",
    )
