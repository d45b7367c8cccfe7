"""The sweep: every few seconds, make good what was lost. Recovery never relies on the broker.

Expired leases are taken back, silent workers marked, and actions announced that the broker forgot. It
announces only the shortfall (due actions minus waiting messages), so that a queue whose workers are merely
busy is never flooded. Any number of control planes may run it at once.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.concurrency import run_in_threadpool

from api.control import ControlPlane
from enginefarm.contract.errors import EnginefarmError
from models.fleet.registration import mark_silent_workers_gone
from models.lifecycle import recovery as sweeping
from models.lifecycle.leases import expire

log = logging.getLogger(__name__)


def sweep_once(control: ControlPlane) -> int:
    """One round; returns how many actions were announced."""
    settings = control.settings
    with control.database.write() as session:
        mark_silent_workers_gone(session, after_seconds=settings.worker_seconds)
        taken_back = expire(session, max_tries=settings.max_tries)
        sweeping.queue_released_builds(session)
    for key, _queue in taken_back:
        log.warning("took back %s: its worker stopped renewing the lease", key[:12])
    return announce_shortfall(control)


def announce_shortfall(control: ControlPlane) -> int:
    with control.database.read() as session:
        due = sweeping.count_due_by_queue(session)
    announced = 0
    for queue, count in due.items():
        shortfall = count - control.announcer.depth(queue)
        if shortfall > 0:
            with control.database.write() as session:
                unannounced = sweeping.mark_announced(session, queue, shortfall)
            control.announcer.announce(unannounced)
            announced += len(unannounced)
    return announced


async def sweep_forever(control: ControlPlane) -> None:
    """Until cancelled. A part that is away is logged and tried again: the sweep itself must never end."""
    while True:
        try:
            await run_in_threadpool(sweep_once, control)
        except EnginefarmError as error:
            log.warning("the sweep will go on when this is over: %s", error.detail)
        except Exception:
            log.exception("the sweep met a defect; it goes on")
        await asyncio.sleep(control.settings.sweep_seconds)
