"""Sizes, times and names as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from enginefarm.wire.bodies import Build, BuildState

_SHORT = 12  # characters of a key or a commit that are enough for a person
_COMMIT = re.compile(r"@[0-9a-f]{40}$")


def short(key: str) -> str:
    return key[:_SHORT]


def size(count: int) -> str:
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d"


def age(then: datetime) -> str:
    return duration((datetime.now(UTC) - then).total_seconds())


def model(reference: str) -> str:
    """A model with its commit cut short."""
    return _COMMIT.sub(lambda commit: commit[0][: _SHORT + 1], reference)


def doing(build: Build) -> str:
    """What a build is doing, or why it does nothing."""
    if build.state is BuildState.QUEUED:
        place = f", number {build.queue_position} in the queue" if build.queue_position else ""
        return (f"waiting for {build.waiting_for}" if build.waiting_for else "waiting") + place
    return build.message or ""
