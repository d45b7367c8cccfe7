"""Submits of engines that do not exist: create or join the actions that build them, and announce these."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from api.batches import Batches
from api.planning.fleet_view import FleetView
from api.planning.planner import Plan
from api.submits.availability import require_worker as refuse_without_worker
from api.submits.availability import too_small_for, why_unserved
from enginefarm.contract.errors import Busy, EnginefarmError, InvalidSpec, Problem
from enginefarm.contract.key import Key
from enginefarm.wire.bodies import BuildState, Disposition, Submitted
from models.catalogue.database import Database
from models.lifecycle.submission import submit_all
from models.queries.engines import find_engines
from models.queue.broker import Announcer

log = logging.getLogger(__name__)

# A thousand callers of one key may submit at once: each waits for milliseconds.
_MOST_WAITING = 2000
_BATCHES_AT_ONCE = 4


@dataclass(frozen=True)
class NewSubmit:
    """A planned spec that had no engine a moment ago. `require_worker` refuses it if no live worker could take it."""

    plan: Plan
    requested_by: str | None
    require_worker: bool


class NewSubmits:
    """Records the submits that arrive together in one transaction."""

    def __init__(self, fleet: FleetView, database: Database, announcer: Announcer) -> None:
        self._fleet = fleet
        self._database = database
        self._announcer = announcer
        self._batches: Batches[NewSubmit, Submitted] = Batches("submits", self._record, at_once=_BATCHES_AT_ONCE)
        self._waiting: Counter[str | None] = Counter()

    def close(self) -> None:
        self._batches.close()

    async def answer(self, submit: NewSubmit) -> Submitted:
        """Record a submit. Call it on the event loop.

        Raises:
            Busy: too many submits of this caller wait already.
            InvalidSpec: no live worker could take it, and it requires one.
        """
        caller = submit.requested_by
        if self._waiting[caller] >= _MOST_WAITING:
            raise Busy(f"{_MOST_WAITING} submits of this API key wait already: wait for their answers, then try again")
        self._waiting[caller] += 1
        try:
            return await self._batches.answer(submit)
        finally:
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller]

    def record(self, submit: NewSubmit) -> Submitted:
        """As `answer`, in this thread."""
        [answer] = self._record_together([submit])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _record(self, submits: Sequence[NewSubmit]) -> list[Submitted | Exception]:
        try:
            return self._record_together(submits)
        except EnginefarmError:
            raise  # the database does not answer
        except Exception:
            if len(submits) == 1:
                raise
            # What one of them makes fail must not fail the others.
            log.exception("%d submits could not be recorded together: now one by one", len(submits))
        answers: list[Submitted | Exception] = []
        for submit in submits:
            try:
                answers.append(self.record(submit))
            except Exception as error:  # noqa: BLE001  # its caller gets it
                answers.append(error)
        return answers

    def _record_together(self, submits: Sequence[NewSubmit]) -> list[Submitted | Exception]:
        """An answer or a refusal for each submit, in their order."""
        requests = [submit.plan.requested_by(submit.requested_by) for submit in submits]
        fleet = self._fleet.live_workers()
        refusals: dict[int, InvalidSpec] = {}
        with self._database.write() as session:
            for position, submit in enumerate(submits):
                if submit.require_worker:
                    try:
                        refuse_without_worker(session, requests[position], fleet)
                    except InvalidSpec as refusal:
                        refusals[position] = refusal
            to_record = [request for position, request in enumerate(requests) if position not in refusals]
            accepted = submit_all(session, to_record)
        # After the commit: a worker must find the action that a message names. The sweep announces what is lost here.
        self._announcer.announce(announcement for build in accepted for announcement in build.announcements)

        answers: list[Submitted | Exception] = []
        remaining = iter(accepted)
        # The session asks the database only if one of the answers needs it.
        with self._database.snapshot() as session:
            # By key: many callers often ask for one engine at once.
            outlooks: dict[Key, tuple[str | None, list[Problem]]] = {}
            engines = {}
            if any(build.disposition is Disposition.CACHED for build in accepted):  # published since
                engines = find_engines(session, {request.build.key for request in requests})
            for position, request in enumerate(requests):
                if position in refusals:
                    answers.append(refusals[position])
                    continue
                build = next(remaining)
                waiting_for = None
                notes = list(submits[position].plan.notes)
                # Only a build that waits is told of missing or small workers; a joined one may be running.
                if build.state is BuildState.QUEUED:
                    key = request.build.key
                    if key not in outlooks:
                        outlooks[key] = why_unserved(session, request, fleet), too_small_for(session, request, fleet)
                    waiting_for, too_small = outlooks[key]
                    notes += too_small
                answers.append(
                    Submitted(
                        id=build.id,
                        key=request.build.key,
                        disposition=build.disposition,
                        state=build.state,
                        engine=engines.get(request.build.key),
                        waiting_for=waiting_for,
                        notes=notes,
                    )
                )
        return answers
