"""Keep the table of builds from growing for ever: remove builds that ended `past_build_days` ago."""

from __future__ import annotations

import logging
from functools import partial

from api.control import ControlPlane
from models.retention.past_builds import remove_past_builds

log = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
_BATCH = 1000


async def drop_past_builds(control: ControlPlane) -> None:
    """Remove all builds that are old enough, in the thread that this has."""
    days = control.settings.past_build_days
    removed = await control.lanes.past_builds.run(None, partial(drop_batches, control, days=days))
    if removed:
        log.info("removed %d builds that ended more than %g days ago", removed, days)


def drop_batches(control: ControlPlane, *, days: float, batch: int = _BATCH) -> int:
    """Remove the builds in a transaction for each batch; returns how many. It ends early if the process ends."""
    removed = 0
    last = 0
    while not control.leaving.is_set():
        with control.database.write() as session:
            batch_removed = remove_past_builds(session, days=days, after=last, size=batch)
        if batch_removed is None:
            break
        removed += batch_removed.removed
        last = batch_removed.last
    return removed
