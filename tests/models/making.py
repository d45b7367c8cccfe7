"""Rows that came about as they do in life: published checkpoints and engines, failed attempts."""

from __future__ import annotations

from sqlalchemy import update

from enginefarm.wire.bodies import Failure
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle.leases import Claim, fail_attempt
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.submission import Request
from tests.models.requests import ENGINE, claimed, manifest, submitted


def converted(database: Database, wanted: Request, worker: str = "w1") -> None:
    held = claimed(database, wanted.convert.key, worker)
    with database.write() as session:
        publish_checkpoint(session, held, manifest("weights"), facts={}, steps={})


def built(database: Database, wanted: Request, worker: str = "w1") -> None:
    held = claimed(database, wanted.build.key, worker)
    with database.write() as session:
        publish_engine(session, held, manifest("engine"), engine=ENGINE, steps={})


def made(database: Database, wanted: Request, *, converter: str = "w1", builder: str = "w1") -> str:
    """The id of a build that succeeded."""
    accepted = submitted(database, wanted)
    converted(database, wanted, converter)
    built(database, wanted, builder)
    return accepted.id


def failed(database: Database, held: Claim, failure: Failure, *, max_tries: int = 3) -> None:
    with database.write() as session:
        fail_attempt(session, held, failure, max_tries=max_tries, steps={})


def due_now(database: Database, key: str) -> None:
    with database.write() as session:
        session.execute(update(ActionRow).where(ActionRow.key == key).values(not_before=None))
