"""The complete sandbox of this machine."""

from __future__ import annotations

import pytest

from workers.sandbox import probe, seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.probe import Obstacle


def sandbox() -> Isolation:
    """Skip the test where the machine does not allow a sandbox."""
    try:
        return probe.complete(Isolation(machine=seccomp.machine()))
    except Obstacle as obstacle:
        pytest.skip(f"no sandbox here: {obstacle}")
