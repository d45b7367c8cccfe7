"""Whether an engine runs on this machine."""

from __future__ import annotations

from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.platform import Platform, differences
from enginefarm.wire.bodies import Engine


def misfits(engine: Engine, here: Platform) -> dict[str, tuple[object, object]]:
    """Field by field what keeps `engine` from running `here`: (needed, found). Empty if it fits."""
    return differences(engine.platform, here, frozenset(engine.bound_to), engine.driver_binding)


def require_fit(engine: Engine, here: Platform) -> None:
    """Raise PlatformMismatch, naming every field, unless `engine` runs `here`."""
    if found := misfits(engine, here):
        fields = "; ".join(
            f"{name} must be {shown(needed)}, here it is {shown(ours)}" for name, (needed, ours) in found.items()
        )
        raise PlatformMismatch(f"engine {engine.key[:12]} is for {engine.platform.label()}: {fields}")


def shown(value: object) -> str:
    """A field of a platform, for a person."""
    return "none" if value is None else str(value)
