"""Enginefarm: the contract and the client.

What a serving node installs. The server packages (`models`, `toolchains`, `api`, `workers`) import this package; it
imports none of them. A public name is loaded when it is first used: a serving program that only imports `enginefarm`
does not wait for the HTTP client and the validation library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from enginefarm.version import __version__

if TYPE_CHECKING:
    from enginefarm.client.farm import Farm, engine_of
    from enginefarm.contract.errors import (
        BuildFailed,
        EnginefarmError,
        FarmError,
        IntegrityError,
        InvalidSpec,
        NotFound,
        PlatformMismatch,
        WaitTimedOut,
    )
    from enginefarm.contract.platform import Platform, PlatformSelector
    from enginefarm.contract.spec import BuildSpec
    from enginefarm.node.detection import detect
    from enginefarm.sdk import pull

_ERRORS = (
    "BuildFailed", "EnginefarmError", "FarmError", "IntegrityError", "InvalidSpec", "NotFound", "PlatformMismatch",
    "WaitTimedOut",
)  # fmt: skip
_HOMES = {
    "BuildSpec": "contract.spec", "Farm": "client.farm", "Platform": "contract.platform",
    "PlatformSelector": "contract.platform", "detect": "node.detection", "engine_of": "client.farm", "pull": "sdk",
    **dict.fromkeys(_ERRORS, "contract.errors"),
}  # fmt: skip

__all__ = [
    "BuildFailed",
    "BuildSpec",
    "EnginefarmError",
    "Farm",
    "FarmError",
    "IntegrityError",
    "InvalidSpec",
    "NotFound",
    "Platform",
    "PlatformMismatch",
    "PlatformSelector",
    "WaitTimedOut",
    "__version__",
    "detect",
    "engine_of",
    "pull",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
