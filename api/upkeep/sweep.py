"""The sweep: every few seconds, end expired leases, mark silent workers and announce actions that lost their message.

Recovery does not rely on the broker: Redis delivers a message again by its age, so a long build would run twice.
Any number of API processes may sweep at once.
"""

from __future__ import annotations

import logging
import secrets
from functools import partial

from api.control import ControlPlane
from models.fleet.registration import mark_silent_workers_gone
from models.lifecycle import recovery
from models.lifecycle.leases import expire

log = logging.getLogger(__name__)

_MESSAGES = 300  # in a queue: more than its workers take until the next sweep
_SWEEPS_A_FULL_COUNT = 15


def sweep_once(control: ControlPlane) -> int:
    """Sweep once; returns how many actions were announced."""
    settings = control.settings
    with control.database.write() as session:
        mark_silent_workers_gone(session, after_seconds=settings.worker_seconds)
        expired = expire(session, max_tries=settings.max_tries)
        recovery.queue_released_builds(session)
    for key, _queue in expired:
        log.warning("the lease of action %s expired: its worker stopped renewing it", key[:12])
    return announce_shortfall(control)


def announce_shortfall(control: ControlPlane) -> int:
    """Announce due actions that have no waiting message; returns how many.

    The difference between due actions and waiting messages is announced, never all due actions: otherwise the queue
    of workers that are merely busy would grow with every sweep.
    """
    # A queue that is longer than this needs no message as long as it has some. But one whose message was lost would
    # wait as long as the queue stays so long: now and then, in about half a minute, all are counted.
    most: int | None = _MESSAGES
    if secrets.randbelow(_SWEEPS_A_FULL_COUNT) == 0:
        most = None
    with control.database.read() as session:
        due = recovery.count_due_by_queue(session, most=most)
    announced = 0
    for queue, count in due.items():
        shortfall = count - control.announcer.depth(queue)
        if shortfall > 0:
            with control.database.write() as session:
                announcements = recovery.mark_announced(session, queue, shortfall)
            # After the commit, so that the next sweep does not choose the same actions. A message that is lost here
            # is a shortfall again later.
            control.announcer.announce(announcements)
            announced += len(announcements)
    return announced


async def sweep(control: ControlPlane) -> None:
    """Sweep once, in the thread that sweeps have."""
    await control.lanes.sweep.run(None, partial(sweep_once, control))
