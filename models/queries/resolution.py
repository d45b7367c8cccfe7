"""Choose the engine that a serving node should load: one of the requested limits, or the smallest that covers them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.wire.resolution import EngineRequirements, Resolution
from enginefarm.wire.suitability import Offer, Suitability, compare
from models.catalogue.expressions import is_of_model
from models.catalogue.rows import EngineRow
from models.queries.engines import get_engine, newest_engines

_ENGINES_EXAMINED = 1000  # the newest of one model; bounds what one request reads and compares
_NEAREST_SHOWN = 3  # each may differ in several fields, and every difference is a problem of the answer


@dataclass(frozen=True)
class _Candidate:
    row: EngineRow
    suitability: Suitability

    def is_smallest(self, requirements: EngineRequirements) -> bool:
        """True for an engine that serves if no other that serves is smaller: it has exactly the requested limits."""
        # A request without this limit is met by engines with any.
        tokens = self.row.spec["limits"]["max_num_tokens"] or 0
        return not self.suitability.larger and tokens == (requirements.limits.max_num_tokens or 0)

    @property
    def extent(self) -> tuple[int, ...]:
        """What makes an engine take more memory, the most important first."""
        limits = self.row.spec["limits"]
        tokens = limits["max_batch_size"] * limits["max_seq_len"] * limits["max_beam_width"]
        # An engine of exactly the requested limits comes before every larger one.
        return len(self.suitability.larger) > 0, tokens, limits["max_num_tokens"] or 0, limits["max_input_len"]


def resolve(session: Session, requirements: EngineRequirements) -> Resolution:
    """The best engine that meets the requirements.

    Raises:
        NotFound: no engine does; its problems name what differs in the nearest ones.
    """
    of_model = is_of_model(EngineRow.model, requirements.model)
    newest_identity: dict[str, str] | None = None
    candidates: list[_Candidate] = []
    serving: list[_Candidate] = []
    for row, identity in newest_engines(session, of_model, limit=_ENGINES_EXAMINED):
        # A folder, a bucket or a branch may have had other weights before: only engines of the same weights as the
        # newest one count.
        newest_identity = newest_identity or identity
        if identity != newest_identity:
            continue
        offer = Offer(row.toolchain, row.version, row.spec, row.bound_to, row.driver_binding, row.provenance)
        candidate = _Candidate(row, compare(offer, requirements))
        candidates.append(candidate)
        if not candidate.suitability.obstacles:
            serving.append(candidate)
            if candidate.is_smallest(requirements):
                break
    if not serving:
        raise _not_found(requirements, candidates)
    best = min(serving, key=lambda candidate: candidate.extent)  # the newest among equals: candidates are in that order
    return Resolution(
        engine=get_engine(session, best.row.key),
        exact=not best.suitability.larger,
        differences=list(best.suitability.larger),
        unchecked=list(best.suitability.unchecked),
    )


def _not_found(requirements: EngineRequirements, candidates: list[_Candidate]) -> NotFound:
    model = requirements.model
    if not candidates:
        return NotFound(f"the farm has no engine of {model}: submit a build, or name the model as GET /v1/engines does")
    # The fewest differences: what a person would change in the request.
    nearest = sorted(candidates, key=lambda candidate: len(candidate.suitability.obstacles))[:_NEAREST_SHOWN]
    problems: list[Problem] = []
    for candidate in nearest:
        for obstacle in candidate.suitability.obstacles:
            problem = Problem(
                pointer=obstacle.pointer,
                code="engine_differs",
                detail=f"engine {candidate.row.key[:12]} has {obstacle.has!r}",
                value=obstacle.wanted,
                expected=str(obstacle.has),
                remedy="submit a build with the requested value",
            )
            problems.append(problem)
    return NotFound(f"none of {len(candidates)} engines of {model} serves; the nearest differ in:", problems=problems)
