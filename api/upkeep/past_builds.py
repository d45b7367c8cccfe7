"""Keep the catalogue from growing for ever: remove builds, actions, attempts and workers of `past_build_days` ago."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from api.control import ControlPlane
from models.catalogue.ranges import KeyRange, next_range
from models.catalogue.rows import ActionRow
from models.retention import past_actions, past_builds

log = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
_BATCH = 1000
# Batches of a table that one round examines without removing anything. A round then takes as long on a catalogue with
# a million engines, whose rows all stay, as on a small one; the next round goes on where it ended.
_IDLE_BATCHES = 100
# An action that is submitted again counts its attempts from one. A worker that was frozen before the removal must have
# lost its lease, and noticed it, long ago.
_LEAST_ACTION_DAYS = 1.0


@dataclass
class Removed:
    """What a round removed."""

    builds: int = 0
    actions: int = 0
    attempts: int = 0
    workers: int = 0


class PastRows:
    """The rounds of one API process. Several processes may remove at once.

    Args:
        batch: rows that a transaction examines.
        idle_batches: see above.
    """

    def __init__(self, control: ControlPlane, *, batch: int = _BATCH, idle_batches: int = _IDLE_BATCHES) -> None:
        self._control = control
        self._days = control.settings.past_build_days
        self._action_days = max(self._days, _LEAST_ACTION_DAYS)
        self._batch, self._idle_batches = batch, idle_batches
        self._last_build = 0
        # From anywhere: the processes of a farm that is restarted often together reach all actions.
        self._examined: KeyRange | None = KeyRange(None, secrets.token_hex(32))

    async def remove(self) -> None:
        """One round, in the thread that it has."""
        removed = await self._control.lanes.past_builds.run(None, self.remove_batches)
        if removed != Removed():
            log.info(
                "removed %d builds, %d actions, %d attempts and %d workers of more than %g days ago",
                removed.builds, removed.actions, removed.attempts, removed.workers, self._days,
            )  # fmt: skip

    def remove_batches(self) -> Removed:
        """One round, with a transaction for each batch. It ends early if the process ends."""
        removed = Removed()
        # In this order: builds keep actions, and attempts keep workers.
        self._remove_builds(removed)
        self._remove_actions(removed)
        self._remove_workers(removed)
        return removed

    def _remove_builds(self, removed: Removed) -> None:
        idle = 0
        while idle < self._idle_batches and not self._control.leaving.is_set():
            with self._control.database.read() as session:
                batch = past_builds.next_batch(session, days=self._days, after=self._last_build, size=self._batch)
            if batch is None:
                # The next round begins anew: some that stayed may go by then.
                self._last_build = 0
                return
            count = 0
            if batch.removable:
                with self._control.database.write() as session:
                    count = past_builds.remove(session, batch.removable, days=self._days)
            removed.builds += count
            idle += count == 0
            self._last_build = batch.last

    def _remove_actions(self, removed: Removed) -> None:
        idle = 0
        ends_reached = 0
        while idle < self._idle_batches and not self._control.leaving.is_set():
            with self._control.database.read() as session:
                actions = next_range(session, ActionRow.key, self._examined, size=self._batch)
                self._examined = actions
                keys: list[str] = []
                if actions is not None:
                    keys = past_actions.removable_keys(session, actions, days=self._action_days)
            if actions is None:
                # From the beginning, once: then this round has seen all.
                ends_reached += 1
                if ends_reached == 2:
                    return
                continue
            if not keys:
                idle += 1
                continue
            with self._control.database.write() as session:
                batch = past_actions.remove(session, keys, days=self._action_days)
            removed.actions += batch.actions
            removed.attempts += batch.attempts

    def _remove_workers(self, removed: Removed) -> None:
        while not self._control.leaving.is_set():
            with self._control.database.write() as session:
                count = past_actions.remove_past_workers(session, days=self._action_days, size=self._batch)
            removed.workers += count
            if count < self._batch:
                return
