"""Estimate how far a build is and how long it will take, by its progress or by recent attempts of the same queue."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from sqlalchemy import String, column, select, tuple_, values
from sqlalchemy.orm import Session, aliased

from enginefarm.contract.stage import Stage
from models.catalogue.clock import now
from models.catalogue.expressions import json_list, seconds_between
from models.catalogue.rows import ActionRow, AttemptRow
from models.catalogue.states import ActionState, Outcome
from models.queue.names import queue_without_sm

_SAMPLES = 20  # only recent attempts, so that an estimate follows a change of machines or of the release
_TRUSTED_PROGRESS = 0.1  # below it, the progress of a stage says too little about the time that remains
_CONVERT_SHARE = 0.2  # of a build's progress: a conversion ends at the progress at which its build begins


@dataclass(frozen=True)
class InFlight:
    """A build action in flight, and the action that its builds wait for now: itself, or the convert before it."""

    action: ActionRow
    current: ActionRow


class Kind(NamedTuple):
    """Attempts that take about as long: of one queue and, if given, from one checkpoint (the key of its convert)."""

    queue: str
    checkpoint: str | None = None


def build_progress(current: ActionRow | None) -> float:
    """The progress of both stages together, 0 to 1. `current` is the action that the build waits for; None: 0."""
    if current is None:
        return 0.0
    if current.stage == Stage.CONVERT:
        return round(_CONVERT_SHARE * current.progress, 4)
    return round(_CONVERT_SHARE + (1 - _CONVERT_SHARE) * current.progress, 4)


def seconds_left(session: Session, builds: Iterable[InFlight]) -> dict[str, float]:
    """Seconds until the engine exists, by key of the build action. The number of statements is constant.

    Without those whose current action is queued, and those to which nothing comparable ran before.
    """
    running = [build for build in builds if build.current.state == ActionState.RUNNING]
    elapsed = _elapsed_seconds(session, [build.current for build in running])
    kinds: set[Kind] = set()
    for build in running:
        if build.current.progress < _TRUSTED_PROGRESS:
            kinds.add(_kind(build.current))
        if build.current is not build.action:
            kinds.add(_kind(build.action))
    usual = usual_seconds_of(session, kinds)
    seconds_left: dict[str, float] = {}
    for build in running:
        current = build.current
        passed = elapsed.get(current.key)
        if passed is None:
            continue
        if current.progress >= _TRUSTED_PROGRESS:
            remaining = passed * (1 - current.progress) / current.progress
        elif _kind(current) in usual:
            # An attempt may take longer than usual; then it ends at any moment.
            remaining = usual[_kind(current)] - passed
        else:
            continue
        remaining = max(0.0, remaining)
        if current is build.action:
            seconds_left[build.action.key] = remaining
        elif _kind(build.action) in usual:
            # The conversion runs; the build follows it.
            seconds_left[build.action.key] = remaining + usual[_kind(build.action)]
    return seconds_left


def usual_seconds(session: Session, queue: str, *, checkpoint: str | None = None) -> float | None:
    """As `usual_seconds_of`, of one kind; None without any attempt."""
    kind = Kind(queue, checkpoint)
    return usual_seconds_of(session, [kind]).get(kind)


def usual_seconds_of(session: Session, kinds: Collection[Kind]) -> dict[Kind, float]:
    """The median time of recent attempts, by kind; without the kinds that have none.

    If some started from the kind's checkpoint, only these count: they are of one model.
    """
    usual: dict[Kind, float] = {}
    for kind, of_checkpoint, of_queue in _samples(session, kinds):
        seconds = of_checkpoint or of_queue
        # Not the mean: one unusually slow attempt would raise every estimate.
        if seconds:
            usual[kind] = median(seconds)
    # No conversion ran on this SM yet: those of the same release on any machine take about as long.
    general_queues = {kind: queue_without_sm(kind.queue) for kind in kinds if kind not in usual}
    general_kinds = {Kind(queue) for queue in general_queues.values() if queue is not None}
    for general, _, seconds in _samples(session, general_kinds):
        for kind, queue in general_queues.items():
            if queue == general.queue and seconds:
                usual[kind] = median(seconds)
    return usual


def _samples(session: Session, kinds: Collection[Kind]) -> Iterable[tuple[Kind, list[float], list[float]]]:
    """The seconds of recent attempts of each kind: those from its checkpoint, and those of its whole queue."""
    if not kinds:
        return
    columns = column("queue", String()), column("checkpoint", String())
    requested = values(*columns, name="requested").data(list(kinds)).cte()
    action = aliased(ActionRow)
    # An action that succeeded says which of its attempts did: no index of attempts is needed.
    seconds = (
        select(seconds_between(AttemptRow.started_at, AttemptRow.ended_at).label("seconds"))
        .join(action, (action.key == AttemptRow.action_key) & (action.attempt == AttemptRow.number))
        .where(action.state == ActionState.SUCCEEDED, AttemptRow.outcome == Outcome.SUCCEEDED)
        .where(action.queue == requested.c.queue)
        .order_by(action.queued_at.desc())
        .limit(_SAMPLES)
        .correlate(requested)
    )
    of_queue = seconds.subquery()
    of_checkpoint = seconds.where(action.depends_on == requested.c.checkpoint).subquery()
    query = select(
        requested.c.queue,
        requested.c.checkpoint,
        select(json_list(of_checkpoint.c.seconds)).scalar_subquery(),
        select(json_list(of_queue.c.seconds)).scalar_subquery(),
    )
    for queue, checkpoint, seconds_of_checkpoint, seconds_of_queue in session.execute(query):
        yield Kind(queue, checkpoint), seconds_of_checkpoint or [], seconds_of_queue or []


def _elapsed_seconds(session: Session, running: Collection[ActionRow]) -> dict[str, float]:
    """Seconds since the attempts of these actions started, by key of the action."""
    if not running:
        return {}
    attempts = [(action.key, action.attempt) for action in running]
    # The database's clock wrote `started_at`, and the clocks of APIs differ from it.
    query = select(AttemptRow.action_key, AttemptRow.started_at, now()).where(
        tuple_(AttemptRow.action_key, AttemptRow.number).in_(attempts)
    )
    return {key: (time - started_at).total_seconds() for key, started_at, time in session.execute(query)}


def _kind(action: ActionRow) -> Kind:
    return Kind(action.queue, action.depends_on)
