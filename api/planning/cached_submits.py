"""Submits whose engines are there, answered from the catalogue many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from api.planning.planner import Plan, Planner
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import BuildState, Disposition, Submitted
from models.catalogue.database import Database
from models.lifecycle.submission import Request, record_builds
from models.queries.engines import find_engines

_GATHERED = 0.001  # seconds: a batch of one costs the database as much as one of thirty

Asked = tuple[BuildSpec, str | None]  # and by whom
_Answer = asyncio.Future[Submitted | None]


class Hits:
    """One thread answers whoever waits, with two statements for all of them.

    A thread for each submit would spend most of its time waiting for its turn at the interpreter, and the database
    most of its own on transactions of one row.
    """

    def __init__(self, planner: Planner, database: Database) -> None:
        self._planner = planner
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hits")
        self._waiting: list[tuple[Asked, _Answer]] = []
        self._work: asyncio.Task[None] | None = None

    def close(self) -> None:
        self._thread.shutdown()

    async def answer(self, spec: BuildSpec, name: str | None) -> Submitted | None:
        """None: it takes more than a look. The engine is not there, the spec has faults, or its model is not known yet.

        Raises:
            DatabaseUnavailable
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._waiting.append(((spec, name), answer))
        if self._work is None:
            self._work = asyncio.create_task(self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        """Whoever comes while some are answered is answered with the next."""
        try:
            while self._waiting:
                await asyncio.sleep(_GATHERED)
                some, self._waiting = self._waiting, []
                asked = [asked for asked, _ in some]
                done = asyncio.get_running_loop().run_in_executor(self._thread, self._answers, asked)
                await asyncio.wait([done])
                for place, (_, answer) in enumerate(some):
                    if answer.cancelled():
                        continue  # who asked has gone
                    if error := done.exception():
                        answer.set_exception(error)
                    else:
                        answer.set_result(done.result()[place])
        finally:
            self._work = None

    def _answers(self, asked: Sequence[Asked]) -> list[Submitted | None]:
        plans = [self._plan(spec) for spec, _ in asked]
        requests = [(plan, plan.asked_by(name)) for plan, (_, name) in zip(plans, asked, strict=True) if plan]
        answers = iter(cached(self._database, requests))
        return [next(answers) if plan else None for plan in plans]

    def _plan(self, spec: BuildSpec) -> Plan | None:
        try:
            return self._planner.plan_at_hand(spec)
        except EnginefarmError:
            return None  # said by whoever plans it in full


def cached(database: Database, asked: Sequence[tuple[Plan, Request]]) -> list[Submitted | None]:
    """The answer for each whose engine is there, else None; what is answered is recorded.

    A published engine does not change, so nothing is locked.
    """
    with database.read() as session:
        engines = find_engines(session, {request.build.key for _, request in asked})
    hits = [request for _, request in asked if request.build.key in engines]
    if not hits:
        return [None] * len(asked)
    with database.write() as session:
        ids = iter(record_builds(session, hits, Disposition.CACHED))
    return [
        Submitted(
            id=next(ids),
            key=request.build.key,
            disposition=Disposition.CACHED,
            state=BuildState.SUCCEEDED,
            engine=engines[request.build.key],
            notes=list(plan.notes),
        )
        if request.build.key in engines
        else None
        for plan, request in asked
    ]
