"""Decide whether an engine runs on a machine."""

from __future__ import annotations

from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.platform import Platform, differences
from enginefarm.wire.bodies import Engine


def misfits(engine: Engine, node: Platform) -> dict[str, tuple[object, object]]:
    """Return what keeps `engine` from running on `node`: (needed, actual) by platform field; empty if it fits."""
    return differences(engine.platform, node, frozenset(engine.bound_to), engine.driver_binding)


def require_fit(engine: Engine, node: Platform) -> None:
    """Return if `engine` runs on `node`.

    Raises:
        PlatformMismatch: it does not; the error names every field that is unlike.
    """
    unlike = misfits(engine, node)
    if unlike:
        fields = []
        for name, (needed, actual) in unlike.items():
            fields.append(f"{name} must be {field_text(needed)}, here it is {field_text(actual)}")
        raise PlatformMismatch(f"engine {engine.key[:12]} is for {engine.platform.label()}: {'; '.join(fields)}")


def field_text(value: object) -> str:
    """Return the value of a platform field for a person."""
    if value is None:
        return "none"
    return str(value)
