"""Who this farm is in what it signs: a URI that stays the same when its keys change."""

from __future__ import annotations

import uuid

from sqlalchemy.orm import Session

from models.catalogue.rows import FarmRow
from models.catalogue.upsert import insert_new


def farm_identity(session: Session, builder_id: str | None) -> str:
    """Return `builder_id` if the operator set one, else the URI of the id in the catalogue, which is made here once."""
    if builder_id is not None:
        return builder_id
    # Of several API processes that start at once, the first decides.
    insert_new(session, FarmRow, {"number": 1, "id": str(uuid.uuid4())})
    return f"urn:uuid:{session.get_one(FarmRow, 1).id}"
