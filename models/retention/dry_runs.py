"""What a dry run of garbage collection decided about engines, for its later steps: rows, so that it needs no memory."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import CheckpointRow, DryRunRemovalRow, EngineRow
from models.retention.policies import Goes

_DEAD_AFTER_SECONDS = 86400.0  # a run that began before has died


def note(session: Session, run: str, keys: Sequence[str]) -> None:
    """Note that the run would remove these engines or checkpoints."""
    session.execute(insert(DryRunRemovalRow), [{"run": run, "key": key} for key in keys])


def goes_in(run: str) -> Goes:
    """The condition that the run would remove a row."""

    def goes(table: type[EngineRow | CheckpointRow]) -> ColumnElement[bool]:
        return exists().where(DryRunRemovalRow.run == run, DryRunRemovalRow.key == table.key)

    return goes


def dead_runs(session: Session) -> list[str]:
    """The runs that died before they deleted their rows."""
    query = select(DryRunRemovalRow.run).where(DryRunRemovalRow.created_at < now(-_DEAD_AFTER_SECONDS)).distinct()
    return list(session.execute(query).scalars())


def forget(session: Session, run: str, *, size: int) -> bool:
    """Delete `size` rows of a run; False if there were none."""
    page = select(DryRunRemovalRow.key).where(DryRunRemovalRow.run == run).order_by(DryRunRemovalRow.key).limit(size)
    last = session.execute(select(func.max(page.subquery().columns[0]))).scalar_one()
    if last is None:
        return False
    session.execute(delete(DryRunRemovalRow).where(DryRunRemovalRow.run == run, DryRunRemovalRow.key <= last))
    return True
