"""Choose among the engines that are there: the one of exactly these limits, else the smallest that covers them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.contract.platform import selector_differences
from enginefarm.wire.bodies import Difference
from enginefarm.wire.resolution import EngineRequirements, Resolution
from models.catalogue.rows import ActionRow, EngineRow
from models.catalogue.visibility import SERVED
from models.queries.engines import get_engine
from models.queries.similarity import any_revision_of

_LOOKED_AT = 1000  # engines of one model, the newest
_SHOWN = 3
_COVERED = ("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens")


@dataclass(frozen=True)
class _Candidate:
    row: EngineRow
    obstacles: tuple[Difference, ...]  # why it does not serve
    larger: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """What grows an engine's memory, the most important first."""
        limits = self.row.spec["limits"]
        tokens = limits["max_batch_size"] * limits["max_seq_len"] * limits["max_beam_width"]
        return len(self.larger) > 0, tokens, limits["max_num_tokens"] or 0, limits["max_input_len"]


def resolve(session: Session, wanted: EngineRequirements) -> Resolution:
    """
    Raises:
        NotFound: no engine serves; its problems say what is in the way of the nearest ones.
    """
    candidates = [_candidate(row, wanted) for row in _engines(session, wanted)]
    serving = [candidate for candidate in candidates if not candidate.obstacles]
    if not serving:
        raise _nothing(wanted, candidates)
    best = min(serving, key=lambda candidate: candidate.extent)  # the newest among equals: they come in that order
    return Resolution(
        engine=get_engine(session, best.row.key),
        exact=not best.larger,
        differences=list(best.larger),
        unchecked=list(best.unchecked),
    )


def _engines(session: Session, wanted: EngineRequirements) -> Iterator[EngineRow]:
    """Newest first. A folder or a branch may hold other weights by now: only engines of the newest ones count."""
    convert = aliased(ActionRow)
    revised = wanted.model.startswith("hf:") and "@" in wanted.model
    query = (
        select(EngineRow, convert.document)
        .join(ActionRow, ActionRow.key == EngineRow.key)
        .outerjoin(convert, convert.key == ActionRow.depends_on)
        .where(SERVED, EngineRow.model == wanted.model if revised else any_revision_of(wanted.model))
        .order_by(EngineRow.created_at.desc(), EngineRow.key)
        .limit(_LOOKED_AT)
    )
    newest: Mapping[str, Any] | None = None
    for row, document in session.execute(query):
        identity = (document or {}).get("model")
        newest = newest or identity
        if identity == newest:
            yield row


def _candidate(row: EngineRow, wanted: EngineRequirements) -> _Candidate:
    unlike, unchecked = selector_differences(row.bound_to, wanted.platform, row.driver_binding)
    elsewhere = [
        Difference(pointer=f"/platform/{name}", wanted=here, has=bound) for name, (bound, here) in unlike.items()
    ]
    limits = list(_limits(row.spec["limits"], wanted, _own(row)))
    too_small = [found for found in limits if found.has < found.wanted]  # type: ignore[operator]  # both are numbers
    larger = tuple(found for found in limits if found not in too_small)
    return _Candidate(row, (*elsewhere, *_build(row, wanted), *too_small), larger, tuple(unchecked))


def _own(row: EngineRow) -> frozenset[str]:
    """Limits that this engine has each by itself, as its toolchain says: of most, a longer input leaves less output."""
    match row.provenance.get("facts"):
        case {"own_limits": [*names]}:
            return frozenset(map(str, names))
    return frozenset()


def _limits(has: Mapping[str, int | None], wanted: EngineRequirements, own: frozenset[str]) -> Iterator[Difference]:
    """Every limit that is another number; one that the engine does not know limits nothing."""
    for name, asked in wanted.limits.model_dump(include={*_COVERED, *own}).items():
        if asked is not None and (there := has.get(name)) is not None and there != asked:
            yield Difference(pointer=f"/limits/{name}", wanted=asked, has=there)


def _build(row: EngineRow, wanted: EngineRequirements) -> Iterator[Difference]:
    """What must be exactly as asked, where it was asked."""
    asked: dict[str, Any] = {}
    has: dict[str, Any] = {"/toolchain/name": row.toolchain, "/toolchain/version": row.version}
    if wanted.toolchain is not None:
        asked |= {"/toolchain/name": wanted.toolchain.name}
        asked |= {"/toolchain/version": wanted.toolchain.version} if wanted.toolchain.version else {}
    for section in ("precision", "parallelism", "options"):
        part = getattr(wanted, section)
        given = part if isinstance(part, dict) else part.model_dump() if part is not None else {}
        asked |= {f"/{section}/{name}": value for name, value in given.items()}
        has |= {f"/{section}/{name}": value for name, value in row.spec[section].items()}
    for pointer, value in asked.items():
        if value != has.get(pointer) and (pointer, value) != ("/precision/dtype", "auto"):
            yield Difference(pointer=pointer, wanted=value, has=has.get(pointer))


def _nothing(wanted: EngineRequirements, candidates: list[_Candidate]) -> NotFound:
    if not candidates:
        return NotFound(
            f"the farm has no engine of {wanted.model}: submit a build, or name the model as GET /v1/engines lists it"
        )
    nearest = sorted(candidates, key=lambda candidate: len(candidate.obstacles))[:_SHOWN]
    problems = [
        Problem(
            pointer=found.pointer, code="engine_differs", detail=f"engine {candidate.row.key[:12]} has {found.has!r}",
            value=found.wanted, expected=str(found.has), remedy="submit a build of what is wanted",
        )
        for candidate in nearest
        for found in candidate.obstacles
    ]  # fmt: skip
    return NotFound(
        f"none of {len(candidates)} engines of {wanted.model} serves; the nearest differ in:", problems=problems
    )
