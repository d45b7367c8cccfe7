"""Say what a submit would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.builds.availability import too_small_for
from api.control import ControlPlane
from api.planning.planner import Draft
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.explanation import Explanation, NearEngine, Outlook, PlannedCommand, Verdict
from models.catalogue.rows import BuildRow
from models.catalogue.states import BuildRowState
from models.lifecycle.submission import Request
from models.queries.engines import find_engine
from models.queries.outlook import outlook
from models.queries.similarity import nearest
from toolchains.registry import all_toolchains
from toolchains.toolchain import Directories

_PLACES = Directories(source=Path("{source}"), output=Path("{output}"), scratch=Path("{scratch}"))


def explain(control: ControlPlane, spec: BuildSpec) -> Explanation:
    """Raises SourceUnavailable if the model's source is away."""
    draft = control.planner.draft(spec)
    if draft.request is None:
        return _explanation(draft, Verdict.MISS)
    with control.database.read() as session:
        remarks = too_small_for(session, draft.request, control.fleet.live_workers())
        return _keyed(session, replace(draft, notes=(*draft.notes, *remarks)), draft.request)


def _keyed(session: Session, draft: Draft, request: Request) -> Explanation:
    engine = find_engine(session, request.build.key)
    build_id = _open_build(session, request.build.key)
    near = nearest(session, request)
    stages = [
        outlook(session, request.convert),
        outlook(session, request.build, checkpoint=request.convert.key),
    ]
    return _explanation(
        draft, _verdict(hit=engine is not None, join=build_id is not None, near=near)
    ).model_copy(
        update={
            "key": request.build.key,
            "convert_key": request.convert.key,
            "build_id": build_id,
            "engine": engine,
            "nearest": near,
            "stages": stages,
            "predicted_minutes": 0.0 if engine else _minutes(stages),
            "commands": [] if draft.findings else list(commands(request)),
        }
    )  # fmt: skip


def _explanation(draft: Draft, verdict: Verdict) -> Explanation:
    return Explanation(
        verdict=verdict,
        spec=draft.spec.model_dump(mode="json"),
        notes=list(draft.notes),
        findings=list(draft.findings),
    )


def _verdict(*, hit: bool, join: bool, near: Sequence[NearEngine]) -> Verdict:
    if hit or join:
        return Verdict.HIT if hit else Verdict.JOIN
    return Verdict.NEAR if near else Verdict.MISS


def _open_build(session: Session, key: str) -> str | None:
    """The first open build that waits for this action; an action without one is not in flight."""
    query = select(BuildRow.id).where(BuildRow.key == key, BuildRow.state == BuildRowState.OPEN)
    return session.execute(query.order_by(BuildRow.seq).limit(1)).scalar_one_or_none()


def _minutes(stages: Sequence[Outlook]) -> float | None:
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    return round(sum(known) / 60, 2) if len(known) == len(stages) else None


def commands(request: Request) -> Iterator[PlannedCommand]:
    """Every program of both stages, as the toolchain plans it, with names in place of the worker's directories."""
    for action in (request.convert, request.build):
        work = action.work
        inputs = {name: Path(f"{{{name}}}") for name in work.inputs}
        for command in all_toolchains()[request.toolchain].plan(work.job, replace(_PLACES, inputs=inputs)):
            yield PlannedCommand(stage=work.job.stage, argv=list(command.argv), environment=dict(command.environment))
