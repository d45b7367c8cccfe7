"""Enginefarm: the contract and the client.

What a serving node installs. The server rooms (`models`, `toolchains`, `api`, `workers`) import this
package; it imports none of them. A name is loaded when it is first asked for, so that the import stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enginefarm.client import Farm, engine_of
    from enginefarm.errors import (
        BuildFailed,
        EnginefarmError,
        FarmError,
        IntegrityError,
        InvalidSpec,
        NotFound,
        PlatformMismatch,
        WaitTimedOut,
    )
    from enginefarm.fingerprint import detect
    from enginefarm.library import pull
    from enginefarm.platform import Platform, PlatformSelector
    from enginefarm.spec import BuildSpec

__version__ = "0.1.0"

_ERRORS = (
    "BuildFailed", "EnginefarmError", "FarmError", "IntegrityError", "InvalidSpec", "NotFound", "PlatformMismatch",
    "WaitTimedOut",
)  # fmt: skip
_HOMES = {
    "BuildSpec": "spec", "Farm": "client", "Platform": "platform", "PlatformSelector": "platform",
    "detect": "fingerprint", "engine_of": "client", "pull": "library", **dict.fromkeys(_ERRORS, "errors"),
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
