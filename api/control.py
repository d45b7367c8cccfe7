"""What one API process holds: made once at its start, closed at its end, given to every route."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.callers import Callers
from api.planning.cached_submits import CachedSubmits
from api.planning.fleet_view import FleetView
from api.planning.planner import Planner
from models.catalogue.database import Database
from models.opening import open_sources, open_store
from models.queue.broker import Announcer, celery_app
from models.security.signing_key import SigningKey
from models.settings import Settings
from models.store import Store


@dataclass(frozen=True)
class ControlPlane:
    settings: Settings
    database: Database
    store: Store
    announcer: Announcer
    planner: Planner
    fleet: FleetView
    callers: Callers
    cached_submits: CachedSubmits
    signing_key: SigningKey | None = None
    open_to_all: bool = False  # on loopback, without any API key

    def public(self, link: str) -> str:
        """`link` for the outside: a path of this API as clients reach it, a link to elsewhere as it is."""
        base = self.settings.public_url
        return f"{base}".rstrip("/") + link if base and link.startswith("/") else link


@contextmanager
def control_plane(settings: Settings, *, open_to_all: bool) -> Iterator[ControlPlane]:
    database = Database(settings.database_url.get_secret_value())
    fleet = FleetView(database)
    sources = open_sources(settings, database)
    planner = Planner(settings, sources, fleet)
    cached_submits = CachedSubmits(planner, sources, fleet, database)
    try:
        yield ControlPlane(
            settings=settings,
            database=database,
            store=open_store(settings, link_secret=_link_secret(settings)),
            announcer=Announcer(celery_app(settings.broker_url.get_secret_value())),
            planner=planner,
            fleet=fleet,
            callers=Callers(database),
            cached_submits=cached_submits,
            signing_key=SigningKey.of_file(settings.signing_key) if settings.signing_key else None,
            open_to_all=open_to_all,
        )
    finally:
        cached_submits.close()
        database.close()


def _link_secret(settings: Settings) -> bytes:
    """Of a single process, links may die with it; several must be given the same secret."""
    given = settings.link_secret
    return given.get_secret_value().encode() if given else secrets.token_bytes(32)


async def _control(request: Request) -> ControlPlane:
    # A coroutine, because FastAPI would run a plain function in a thread.
    control: ControlPlane = request.app.state.control
    return control


Control = Annotated[ControlPlane, Depends(_control)]
