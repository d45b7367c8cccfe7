"""Choose the engine that a serving node should load: one of the requested limits, or the smallest that covers them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.contract.platform import selector_differences
from enginefarm.wire.bodies import Difference
from enginefarm.wire.resolution import EngineRequirements, Resolution
from models.catalogue.rows import EngineRow
from models.queries.engines import get_engine, newest_engines
from models.queries.similarity import any_revision_of

_ENGINES_EXAMINED = 1000  # the newest of one model; bounds what one request reads and compares
_NEAREST_SHOWN = 3  # each may differ in several fields, and every difference is a problem of the answer
# An engine with a larger value of one of these also serves requests with the smaller value.
_COVERED_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens")


@dataclass(frozen=True)
class _Candidate:
    row: EngineRow
    obstacles: tuple[Difference, ...]  # why it does not serve
    larger: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """What makes an engine take more memory, the most important first."""
        limits = self.row.spec["limits"]
        tokens = limits["max_batch_size"] * limits["max_seq_len"] * limits["max_beam_width"]
        # An engine of exactly the requested limits comes before every larger one.
        return len(self.larger) > 0, tokens, limits["max_num_tokens"] or 0, limits["max_input_len"]


def resolve(session: Session, requirements: EngineRequirements) -> Resolution:
    """The best engine that meets the requirements.

    Raises:
        NotFound: no engine does; its problems name what differs in the nearest ones.
    """
    if requirements.model.startswith("hf:") and "@" in requirements.model:
        of_model = EngineRow.model == requirements.model
    else:
        of_model = any_revision_of(requirements.model)
    newest_identity: dict[str, str] | None = None
    candidates: list[_Candidate] = []
    serving: list[_Candidate] = []
    for row, identity in newest_engines(session, of_model, limit=_ENGINES_EXAMINED):
        # A folder, a bucket or a branch may have had other weights before: only engines of the same weights as the
        # newest one count.
        newest_identity = newest_identity or identity
        if identity != newest_identity:
            continue
        candidate = _candidate(row, requirements)
        candidates.append(candidate)
        if not candidate.obstacles:
            serving.append(candidate)
    if not serving:
        raise _not_found(requirements, candidates)
    best = min(serving, key=lambda candidate: candidate.extent)  # the newest among equals: candidates are in that order
    return Resolution(
        engine=get_engine(session, best.row.key),
        exact=not best.larger,
        differences=list(best.larger),
        unchecked=list(best.unchecked),
    )


def _candidate(row: EngineRow, requirements: EngineRequirements) -> _Candidate:
    """Compare an engine with the requirements: what forbids its use, and in what it is larger than requested."""
    unlike, unchecked = selector_differences(row.bound_to, requirements.platform, row.driver_binding)
    obstacles: list[Difference] = []
    for name, (bound, of_node) in unlike.items():
        obstacles.append(Difference(pointer=f"/platform/{name}", wanted=of_node, has=bound))
    obstacles.extend(_build_differences(row, requirements))
    larger: list[Difference] = []
    limits = row.spec["limits"]
    compared = set(_COVERED_LIMITS)
    # Some toolchains' engines have more limits that are independent of each other; in most, a longer input leaves less
    # output.
    match row.provenance.get("facts"):
        case {"own_limits": [*names]}:
            compared.update(map(str, names))
    for name, requested in requirements.limits.model_dump(include=compared).items():
        actual = limits.get(name)
        # An absent limit does not restrict the engine.
        if requested is None or actual is None or actual == requested:
            continue
        difference = Difference(pointer=f"/limits/{name}", wanted=requested, has=actual)
        if actual < requested:
            obstacles.append(difference)
        else:
            larger.append(difference)
    return _Candidate(row, tuple(obstacles), tuple(larger), tuple(unchecked))


def _build_differences(row: EngineRow, requirements: EngineRequirements) -> Iterator[Difference]:
    """The requested fields that must be equal in the engine and are not."""
    requested: dict[str, Any] = {}
    actual: dict[str, Any] = {"/toolchain/name": row.toolchain, "/toolchain/version": row.version}
    if requirements.toolchain is not None:
        requested["/toolchain/name"] = requirements.toolchain.name
        if requirements.toolchain.version:
            requested["/toolchain/version"] = requirements.toolchain.version
    sections: dict[str, dict[str, Any]] = {"options": requirements.options}
    if requirements.precision is not None:
        sections["precision"] = requirements.precision.model_dump()
    if requirements.parallelism is not None:
        sections["parallelism"] = requirements.parallelism.model_dump()
    for section in ("precision", "parallelism", "options"):
        for name, value in sections.get(section, {}).items():
            requested[f"/{section}/{name}"] = value
        for name, value in row.spec[section].items():
            actual[f"/{section}/{name}"] = value
    # Only what the requirements name: a field that they leave out may have any value in the engine.
    for pointer, value in requested.items():
        # `auto` names no type: any will do.
        any_dtype = (pointer, value) == ("/precision/dtype", "auto")
        if value != actual.get(pointer) and not any_dtype:
            yield Difference(pointer=pointer, wanted=value, has=actual.get(pointer))


def _not_found(requirements: EngineRequirements, candidates: list[_Candidate]) -> NotFound:
    model = requirements.model
    if not candidates:
        return NotFound(f"the farm has no engine of {model}: submit a build, or name the model as GET /v1/engines does")
    # The fewest differences: what a person would change in the request.
    nearest = sorted(candidates, key=lambda candidate: len(candidate.obstacles))[:_NEAREST_SHOWN]
    problems: list[Problem] = []
    for candidate in nearest:
        for obstacle in candidate.obstacles:
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
