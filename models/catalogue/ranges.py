"""Work through a large table in bounded pieces: ranges of its key, and rows that are locked without waiting."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session


@dataclass(frozen=True)
class KeyRange:
    """Keys after `after`, up to and with `until`, in the order of the database; `after` None: from the first."""

    after: str | None
    until: str

    def condition(self, column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        """For a WHERE clause."""
        if self.after is None:
            return column <= self.until
        return (column > self.after) & (column <= self.until)


def next_range(
    session: Session,
    column: InstrumentedAttribute[str],
    previous: KeyRange | None,
    *conditions: ColumnElement[bool],
    size: int,
) -> KeyRange | None:
    """The range of the next `size` rows that meet the conditions; None if there are none.

    Every statement about a range then reads `size` rows and no more, however large the table is.
    """
    after = previous.until if previous is not None else None
    page = select(column).where(*conditions).order_by(column).limit(size)
    if after is not None:
        page = page.where(column > after)
    until = session.execute(select(func.max(page.subquery().columns[0]))).scalar_one()
    if until is None:
        return None
    return KeyRange(after, until)


def lock_free_rows(
    session: Session, column: InstrumentedAttribute[str], keys: Collection[str], *, key_share: bool = False
) -> list[str]:
    """Lock the rows with these keys until the transaction ends, except rows that others have locked; returns the keys.

    It waits for nobody, so no two transactions wait for each other. The next statement sees the rows as they are now.
    `key_share` lets others refer to the rows, as `models.lifecycle.transitions.lock_action` does.
    """
    if not keys:
        return []
    rows = select(column).where(column.in_(keys)).order_by(column)
    rows = rows.with_for_update(skip_locked=True, key_share=key_share)
    return list(session.execute(rows).scalars())
