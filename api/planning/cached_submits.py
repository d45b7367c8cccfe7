"""Submits whose engine exists are answered many at a time.

It takes no network call and reads no model file: a spec is planned from cached answers of its model source, and its
plan is reused while the fleet and the model stay the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

from cachetools import LRUCache

from api.lanes import call_in_thread
from api.planning.fleet_view import FleetView
from api.planning.inputs import input_references
from api.planning.planner import Plan, Planner
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.model.resolved_files import ResolvedModel
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import BuildState, Disposition, EngineSummary, Submitted
from models.caching import TimedCache
from models.catalogue.database import Database
from models.catalogue.rows import WorkerRow
from models.lifecycle.cached_builds import record_where_served
from models.lifecycle.submission import Request, record_builds
from models.queries.engines import find_engines, readable_summaries
from models.sources import Sources
from toolchains.registry import all_toolchains

# Batches that wait for the database at once, each with a thread and a connection. While one is committed, the next one
# is planned. Submits that arrive when all are in use make one large batch, which costs little more than a small one.
MOST_BATCHES = 2
_MAX_PLANS = 1024
# Frees memory. Plans become invalid long before, each time the fleet view reads the catalogue.
_MAX_PLAN_SECONDS = 60.0
_MAX_BODIES = 1024
MAX_BODY = 8 << 10  # bytes of a body that is remembered; specs have about one KiB


@dataclass(frozen=True)
class ValidSpec:
    """A spec that was validated, and its fields as the caller wrote them: equal texts have equal plans."""

    spec: BuildSpec

    @cached_property
    def as_written(self) -> str:
        return self.spec.model_dump_json(exclude_unset=True)


@dataclass(frozen=True)
class Submit:
    """One POST: a spec and the name of the API key that sent it."""

    spec: ValidSpec
    requested_by: str | None


@dataclass(frozen=True)
class Answer:
    """What is known of one submit.

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
    """Gathers submits that arrive together; a thread answers all of them with one statement.

    A thread for each submit would spend most of its time waiting for its turn at the interpreter, and the database
    most of its own on transactions of one row.

    Use it from one event loop.
    """

    def __init__(self, planner: Planner, sources: Sources, fleet: FleetView, database: Database) -> None:
        self._planner = planner
        self._sources = sources
        self._fleet = fleet
        self._database = database
        self._threads = ThreadPoolExecutor(MOST_BATCHES, thread_name_prefix="cached-submits")
        self._plans: TimedCache[str, _CachedPlan] = TimedCache(capacity=_MAX_PLANS)  # by the spec as written, in JSON
        self._bodies: LRUCache[bytes, ValidSpec] = LRUCache(_MAX_BODIES)
        self._queue: list[tuple[Submit, _Answer]] = []
        self._is_gathering = False
        self._batches: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Wait for the batches that are being answered."""
        self._threads.shutdown()

    def spec_of(self, body: bytes) -> ValidSpec | None:
        """The spec of a body that was answered from the catalogue before; None for any other body."""
        return self._bodies.get(body)

    def remember(self, body: bytes, spec: ValidSpec) -> None:
        """Let `spec_of` know the spec that was validated from this body. The most recently used ones stay."""
        if len(body) <= MAX_BODY:
            self._bodies[body] = spec

    def forget(self, body: bytes) -> None:
        self._bodies.pop(body, None)

    async def answer(self, submit: Submit) -> Answer:
        """Answer from the catalogue, and record the build.

        Raises:
            DatabaseUnavailable: for all submits that were answered together.
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._queue.append((submit, answer))
        self._begin_batch()
        return await answer

    def _begin_batch(self) -> None:
        if self._queue and not self._is_gathering and len(self._batches) < MOST_BATCHES:
            self._is_gathering = True
            batch = asyncio.create_task(self._answer_batch())
            self._batches.add(batch)
            batch.add_done_callback(self._end_batch)

    def _end_batch(self, batch: asyncio.Task[None]) -> None:
        self._batches.discard(batch)
        self._begin_batch()

    async def _answer_batch(self) -> None:
        """Answer all submits that wait now."""
        # Requests that arrived in the same moment are in the queue after one turn of the event loop.
        await asyncio.sleep(0)
        batch = self._queue
        self._queue = []
        self._is_gathering = False
        submits = [submit for submit, _ in batch]
        answers: list[Answer] = []
        error: BaseException | None = None
        try:
            work = partial(self._answers, submits)
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, call_in_thread, work)
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

    def _answers(self, submits: Sequence[Submit]) -> list[Answer]:
        """One answer for each submit, in their order."""
        answers = [Answer()] * len(submits)
        positions = []
        planned = []
        # One look at a model serves the whole batch: each of its submits arrived before the look.
        models: dict[str, ResolvedModel | None] = {}
        for position, submit in enumerate(submits):
            plan = self._plan(submit.spec, models)
            if plan is not None:
                positions.append(position)
                planned.append((plan, plan.requested_by(submit.requested_by)))
        recorded = record_cached(self._database, planned)
        for position, (plan, _), submitted in zip(positions, planned, recorded, strict=True):
            answers[position] = Answer(submitted, plan)
        return answers

    def _plan(self, valid: ValidSpec, models: dict[str, ResolvedModel | None]) -> Plan | None:
        """The plan, if making it takes no network call and reads no model file; None otherwise."""
        spec = valid.spec
        # Auxiliary inputs are pinned by network calls or by hashing files.
        toolchain = all_toolchains().get(spec.toolchain.name)
        if toolchain is None or any(input_references(spec, toolchain)):
            return None
        try:
            if spec.model not in models:
                models[spec.model] = self._sources.cached_model(model_reference.parse(spec.model))
            model = models[spec.model]
            if model is None:
                return None
            fleet = self._fleet.present_workers()
            cached = self._plans.get(valid.as_written)
            if cached is not None and cached.fleet is fleet and cached.model == model:
                return cached.plan
            plan = self._planner.plan(spec)
        except EnginefarmError:
            # The full path plans the spec again, and raises the error to its own caller alone.
            return None
        self._plans.put(valid.as_written, _CachedPlan(plan, fleet, model), _MAX_PLAN_SECONDS)
        return plan


def record_cached(database: Database, planned: Sequence[tuple[Plan, Request]]) -> list[Submitted | None]:
    """Record a succeeded build for each request whose engine exists; returns an answer or None for each request.

    The builds are committed before this returns: an accepted build must not be lost.
    """
    if not planned:
        return []
    requests = [request for _, request in planned]
    ids: Sequence[str | None]
    if database.engine.dialect.name == "postgresql":
        ids, rows = record_where_served(database, requests)
        engines = {summary.key: summary for summary in readable_summaries(rows)}
    else:
        ids, engines = _record_in_two_steps(database, requests)
    answers: list[Submitted | None] = []
    for (plan, request), build_id in zip(planned, ids, strict=True):
        engine = engines.get(request.build.key)
        if engine is None or build_id is None:
            answers.append(None)
            continue
        answers.append(
            Submitted(
                id=build_id,
                key=request.build.key,
                disposition=Disposition.CACHED,
                state=BuildState.SUCCEEDED,
                engine=engine,
                notes=list(plan.notes),
            )
        )
    return answers


def _record_in_two_steps(
    database: Database, requests: Sequence[Request]
) -> tuple[list[str | None], dict[str, EngineSummary]]:
    """For SQLite, which has no INSERT below WITH. Returns ids, None where no engine exists, and the engines."""
    # Nothing is locked: a published engine does not change.
    with database.read() as session:
        engines = find_engines(session, {request.build.key for request in requests})
    cached = [request for request in requests if request.build.key in engines]
    if not cached:
        return [None] * len(requests), engines
    with database.write() as session:
        recorded = iter(record_builds(session, cached, Disposition.CACHED))
    return [next(recorded) if request.build.key in engines else None for request in requests], engines
