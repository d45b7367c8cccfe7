"""Explain a spec: what a submit of it would do, without submitting it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select

from api.control import ControlPlane
from api.submits.availability import too_small_for
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.explanation import Explanation, PlannedCommand, Verdict
from models.catalogue.rows import BuildRow
from models.catalogue.states import BuildRowState
from models.lifecycle.submission import Request
from models.queries.engines import find_engine
from models.queries.outlook import Fleet, outlook
from models.queries.similarity import nearest
from toolchains.registry import all_toolchains
from toolchains.toolchain import Directories

# A worker chooses its directories only when it runs a program; the commands show these names in their place.
_PLACEHOLDERS = Directories(source=Path("{source}"), output=Path("{output}"), scratch=Path("{scratch}"))


def explain(control: ControlPlane, spec: BuildSpec) -> Explanation:
    """
    Raises:
        SourceUnavailable: a model's source did not answer.
    """
    draft = control.planner.draft(spec)
    normalized = draft.spec.model_dump(mode="json")
    findings = list(draft.findings)
    request = draft.request
    if request is None:
        # The findings leave the spec without keys: nothing in the catalogue can be compared with it.
        return Explanation(verdict=Verdict.MISS, spec=normalized, notes=list(draft.notes), findings=findings)

    # A snapshot, so that verdict, engine and build agree.
    with control.database.snapshot() as session:
        too_small = too_small_for(session, request, control.fleet.live_workers())
        engine = find_engine(session, request.build.key)
        # An action that no open build waits for is not in flight: a submit would start it.
        open_builds = select(BuildRow.id).where(BuildRow.key == request.build.key, BuildRow.state == BuildRowState.OPEN)
        build_id = session.execute(open_builds.order_by(BuildRow.seq).limit(1)).scalar_one_or_none()
        near = nearest(session, request)
        fleet = Fleet(session)
        stages = [
            outlook(session, fleet, request.convert),
            outlook(session, fleet, request.build, checkpoint=request.convert.key),
        ]

    verdict = Verdict.MISS
    if engine is not None:
        verdict = Verdict.HIT
    elif build_id is not None:
        verdict = Verdict.JOIN
    elif near:
        verdict = Verdict.NEAR

    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    predicted_minutes = None
    if engine is not None:
        predicted_minutes = 0.0
    elif len(seconds) == len(stages):
        # Without an estimate for one of the stages the sum of the others would promise too little.
        predicted_minutes = round(sum(seconds) / 60, 2)

    return Explanation(
        verdict=verdict,
        key=request.build.key,
        convert_key=request.convert.key,
        spec=normalized,
        notes=[*draft.notes, *too_small],
        findings=findings,
        build_id=build_id,
        engine=engine,
        nearest=near,
        stages=stages,
        predicted_minutes=predicted_minutes,
        # A toolchain plans commands only for a spec that passed its checks.
        commands=[] if findings else list(commands(request)),
    )


def commands(request: Request) -> Iterator[PlannedCommand]:
    """Every program of both stages, as the toolchain plans it, with placeholders for the worker's directories."""
    for action in (request.convert, request.build):
        work = action.work
        inputs = {name: Path(f"{{{name}}}") for name in work.inputs}
        directories = replace(_PLACEHOLDERS, inputs=inputs)
        for command in all_toolchains()[request.toolchain].plan(work.job, directories):
            yield PlannedCommand(stage=work.job.stage, argv=list(command.argv), environment=dict(command.environment))
