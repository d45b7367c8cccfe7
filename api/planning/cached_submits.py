"""The fast path of POST /v1/builds: submits whose engine exists are answered many at a time.

It takes no network call and reads no model file: a spec is planned from cached answers of its model source, and its
plan is reused while the fleet and the model stay the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from cachetools import TTLCache

from api.lanes import call_in_thread
from api.planning.fleet_view import FleetView
from api.planning.inputs import input_references
from api.planning.planner import Plan, Planner
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.model.resolved_files import ResolvedModel
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import BuildState, Disposition, Submitted
from models.catalogue.database import Database
from models.catalogue.rows import WorkerRow
from models.lifecycle.submission import Request, record_builds
from models.queries.engines import find_engines
from models.sources import Sources
from toolchains.registry import all_toolchains

# How long a batch waits for more submits: one of thirty costs the database as much as one of a single submit.
_GATHER_SECONDS = 0.001
_MAX_PLANS = 1024
# Frees memory. Plans become invalid long before, each time the fleet view reads the catalogue.
_MAX_PLAN_SECONDS = 60.0


@dataclass(frozen=True)
class Submit:
    """One POST: a spec and the name of the API key that sent it."""

    spec: BuildSpec
    requested_by: str | None


@dataclass(frozen=True)
class Answer:
    """What the fast path knows of one submit.

    `submitted` is None if the full path is needed: no engine, an invalid spec, or a model that is not resolved yet.
    `plan` is then the plan of a valid spec that has no engine, for the full path to go on from.
    """

    submitted: Submitted | None = None
    plan: Plan | None = None


@dataclass(frozen=True)
class _CachedPlan:
    """A plan, valid while planning would see the same fleet and the same model."""

    plan: Plan
    fleet: Sequence[WorkerRow]
    model: ResolvedModel


_Answer = asyncio.Future[Answer]


class CachedSubmits:
    """Gathers the submits of a millisecond; one thread answers all of them with two statements.

    A thread for each submit would spend most of its time waiting for its turn at the interpreter, and the database
    most of its own on transactions of one row.
    """

    def __init__(self, planner: Planner, sources: Sources, fleet: FleetView, database: Database) -> None:
        self._planner = planner
        self._sources = sources
        self._fleet = fleet
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cached-submits")
        # By the spec as written, in JSON. No lock, because only the one thread uses it.
        self._plans: TTLCache[str, _CachedPlan] = TTLCache(_MAX_PLANS, _MAX_PLAN_SECONDS)
        self._queue: list[tuple[Submit, _Answer]] = []
        self._answering: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Wait for the batch that is being answered."""
        self._thread.shutdown()

    async def answer(self, submit: Submit) -> Answer:
        """Answer from the catalogue, and record the build.

        Raises:
            DatabaseUnavailable: for all submits that were answered together.
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._queue.append((submit, answer))
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        """Answer batches until the queue is empty. Submits that arrive meanwhile make the next batch."""
        try:
            while self._queue:
                await asyncio.sleep(_GATHER_SECONDS)
                batch = self._queue
                self._queue = []
                submits = [submit for submit, _ in batch]
                answers: list[Answer] = []
                error: BaseException | None = None
                try:
                    work = partial(self._answers, submits)
                    answers = await asyncio.get_running_loop().run_in_executor(self._thread, call_in_thread, work)
                except BaseException as cause:  # noqa: BLE001  # whatever it is, the callers must get it
                    error = cause
                for position, (_, answer) in enumerate(batch):
                    if answer.cancelled():
                        # Its client disconnected. Its build is recorded like the others.
                        continue
                    if error is not None:
                        answer.set_exception(error)
                    else:
                        answer.set_result(answers[position])
        finally:
            self._answering = None

    def _answers(self, submits: Sequence[Submit]) -> list[Answer]:
        """One answer for each submit, in their order."""
        answers = [Answer()] * len(submits)
        positions = []
        planned = []
        for position, submit in enumerate(submits):
            plan = self._plan(submit.spec)
            if plan is not None:
                positions.append(position)
                planned.append((plan, plan.requested_by(submit.requested_by)))
        recorded = record_cached(self._database, planned)
        for position, (plan, _), submitted in zip(positions, planned, recorded, strict=True):
            answers[position] = Answer(submitted, plan)
        return answers

    def _plan(self, spec: BuildSpec) -> Plan | None:
        """The plan, if making it takes no network call and reads no model file; None otherwise."""
        # Auxiliary inputs are pinned by network calls or by hashing files.
        toolchain = all_toolchains().get(spec.toolchain.name)
        if toolchain is None or any(input_references(spec, toolchain)):
            return None
        try:
            model = self._sources.cached_model(model_reference.parse(spec.model))
            if model is None:
                return None
            as_written = spec.model_dump_json(exclude_unset=True)
            fleet = self._fleet.present_workers()
            cached = self._plans.get(as_written)
            if cached is not None and cached.fleet is fleet and cached.model == model:
                return cached.plan
            plan = self._planner.plan(spec)
        except EnginefarmError:
            # The full path plans the spec again, and raises the error to its own caller alone.
            return None
        self._plans[as_written] = _CachedPlan(plan, fleet, model)
        return plan


def record_cached(database: Database, planned: Sequence[tuple[Plan, Request]]) -> list[Submitted | None]:
    """Record a succeeded build for each request whose engine exists; returns an answer or None for each request."""
    # Nothing is locked: a published engine does not change.
    with database.read() as session:
        engines = find_engines(session, {request.build.key for _, request in planned})
    cached = [request for _, request in planned if request.build.key in engines]
    if not cached:
        return [None] * len(planned)
    # Committed before the answers are sent: an accepted build must not be lost.
    with database.write() as session:
        ids = iter(record_builds(session, cached, Disposition.CACHED))
    answers: list[Submitted | None] = []
    for plan, request in planned:
        engine = engines.get(request.build.key)
        if engine is None:
            answers.append(None)
            continue
        answers.append(
            Submitted(
                id=next(ids),
                key=request.build.key,
                disposition=Disposition.CACHED,
                state=BuildState.SUCCEEDED,
                engine=engine,
                notes=list(plan.notes),
            )
        )
    return answers
