"""Format sizes, times and names for people."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from enginefarm.wire.bodies import Build, BuildState

_SHORT = 12  # characters of a key or a commit: enough to be unique in a catalogue
_COMMIT = re.compile(r"@[0-9a-f]{40}$")


def short(key: str) -> str:
    """Return the start of a key; every command that takes a key accepts it."""
    return key[:_SHORT]


def size(count: int) -> str:
    """Format a number of bytes: `512 B`, `1.5 MiB`, `120 GiB`."""
    amount = float(count)
    unit = "B"
    for larger_unit in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount /= 1024
        unit = larger_unit
    # Three digits are enough to compare sizes; half a byte does not exist.
    digits = 0 if unit == "B" or amount >= 100 else 1
    return f"{amount:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """Format a duration by its two largest units: `42s`, `3m05s`, `2h10m`, `9d`."""
    count = max(0, round(seconds))
    if count < 60:
        return f"{count}s"
    if count < 3600:
        return f"{count // 60}m{count % 60:02}s"
    if count < 86400:
        return f"{count // 3600}h{count % 3600 // 60:02}m"
    return f"{count // 86400}d"


def age(then: datetime) -> str:
    """Format the time since `then`."""
    return duration((datetime.now(timezone.utc) - then).total_seconds())


def model(reference: str) -> str:
    """Shorten the commit in a model reference."""
    return _COMMIT.sub(lambda commit: commit[0][: _SHORT + 1], reference)


def doing(build: Build) -> str:
    """Return what a build is doing, or what it waits for; "" if nothing is known."""
    if build.state is not BuildState.QUEUED:
        return build.message or ""
    text = "waiting"
    if build.waiting_for:
        text += f" for {build.waiting_for}"
    if build.queue_position:
        text += f", number {build.queue_position} in the queue"
    return text
