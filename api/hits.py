"""Submits whose engines are there, answered from the catalogue many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from api.planning import Plan, Planner
from enginefarm.errors import EnginefarmError
from enginefarm.spec import BuildSpec
from enginefarm.wire import BuildState, Disposition, Submitted
from models.database import Database
from models.listing import find_engines
from models.submission import Request, record


@dataclass
class _Batch:
    """Those who wait for the same look into the catalogue."""

    asked: list[tuple[BuildSpec, str | None]] = field(default_factory=list)
    answers: asyncio.Future[list[Submitted | None]] | None = None


class Hits:
    """One thread answers whoever waits, with two statements for all of them.

    A thread for each submit would spend most of its time waiting for its turn at the interpreter, and the database
    most of its own on transactions of one row.
    """

    def __init__(self, planner: Planner, database: Database) -> None:
        self._planner = planner
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hits")
        self._turn = asyncio.Lock()
        self._gathering = _Batch()

    def close(self) -> None:
        self._thread.shutdown()

    async def answer(self, spec: BuildSpec, name: str | None) -> Submitted | None:
        """None: it takes more than a look. The engine is not there, the spec has faults, or its model is not known yet.

        Raises:
            DatabaseUnavailable
        """
        batch = self._gathering
        place = len(batch.asked)
        batch.asked.append((spec, name))
        async with self._turn:  # a batch gathers while the one before it is answered
            if batch.answers is None:
                self._gathering = _Batch()
                loop = asyncio.get_running_loop()
                batch.answers = loop.run_in_executor(self._thread, self._answers, batch.asked)
            await asyncio.wait([batch.answers])
        return batch.answers.result()[place]

    def _answers(self, asked: Sequence[tuple[BuildSpec, str | None]]) -> list[Submitted | None]:
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
        ids = iter(record(session, hits, Disposition.CACHED))
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
