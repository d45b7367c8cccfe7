"""Submits whose engine exists are answered many at a time.

It takes no network call and reads no model file: a spec is planned from cached answers of its model source, and its
plan is reused while the fleet and the model stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cachetools import LRUCache

from api.batches import Batches
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

MOST_BATCHES = 2  # at once, each with a connection
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


class CachedSubmits:
    """Answers submits from the catalogue, those that arrive together with one statement. Use it from one event loop."""

    def __init__(self, planner: Planner, sources: Sources, fleet: FleetView, database: Database) -> None:
        self._planner = planner
        self._sources = sources
        self._fleet = fleet
        self._database = database
        self._batches: Batches[Submit, Answer] = Batches("cached-submits", self._answers, at_once=MOST_BATCHES)
        self._plans: TimedCache[str, _CachedPlan] = TimedCache(capacity=_MAX_PLANS)  # by the spec as written, in JSON
        self._bodies: LRUCache[bytes, ValidSpec] = LRUCache(_MAX_BODIES)

    def close(self) -> None:
        """Wait for the batches that are being answered."""
        self._batches.close()

    def spec_of(self, body: bytes) -> ValidSpec | None:
        """The spec of a body that was validated before and can be planned here; None for any other body."""
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
        return await self._batches.answer(submit)

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
        recorded = iter(record_builds(session, cached, [Disposition.CACHED] * len(cached)))
    return [next(recorded) if request.build.key in engines else None for request in requests], engines
