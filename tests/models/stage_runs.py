"""Stages without a toolchain: claim, then publish or fail through the functions that workers use."""

from __future__ import annotations

from sqlalchemy import update

from enginefarm.wire.bodies import Failure
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle.leases import Claim, fail_attempt
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.submission import Request
from tests.models.requests import ENGINE, claim_now, one_file_manifest, submit_request


def run_convert(database: Database, build_request: Request, worker: str = "w1") -> None:
    """Claim the convert action and publish its checkpoint."""
    claim = claim_now(database, build_request.convert.key, worker)
    with database.write() as session:
        publish_checkpoint(session, claim, one_file_manifest("weights"), facts={}, steps={})


def run_build(database: Database, build_request: Request, worker: str = "w1") -> None:
    """Claim the build action and publish its engine."""
    claim = claim_now(database, build_request.build.key, worker)
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest("engine"), engine=ENGINE, steps={})


def build_engine(database: Database, build_request: Request, *, converter: str = "w1", builder: str = "w1") -> str:
    """Submit a request and run both stages; returns the id of the build."""
    accepted = submit_request(database, build_request)
    run_convert(database, build_request, converter)
    run_build(database, build_request, builder)
    return accepted.id


def fail_claim(database: Database, claim: Claim, failure: Failure, *, max_tries: int = 3) -> None:
    with database.write() as session:
        fail_attempt(session, claim, failure, max_tries=max_tries, steps={})


def make_due(database: Database, key: str) -> None:
    """End the pause before the action's next try."""
    with database.write() as session:
        session.execute(update(ActionRow).where(ActionRow.key == key).values(not_before=None))
