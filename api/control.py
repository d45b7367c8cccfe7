"""The control plane: everything that one API process opens at its start, closes at its end and passes to routes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Annotated, Any

from fastapi import Depends, Request

from api.access.callers import Callers
from api.access.failed_sign_ins import FailedSignIns
from api.access.open_mode import OpenMode
from api.farm_keys import FarmKeys
from api.lanes import Lanes
from api.planning.cached_submits import MOST_BATCHES, CachedSubmits
from api.planning.fleet_view import FleetView
from api.planning.planner import Planner
from api.planning.resolutions import Resolutions
from api.readiness import ReadinessProbe
from api.submits.new_submits import NewSubmits
from api.upload_room import UploadRoom
from api.watching.sharing import GATHER_SECONDS, SharedReads, Watchers
from api.watching.watch import Watch
from models.catalogue.database import Database
from models.opening import open_sources, open_store
from models.queue.broker import Announcer, celery_app
from models.settings import Settings
from models.store import Store


@dataclass(frozen=True)
class ControlPlane:
    """The parts that routes and background loops share in one API process."""

    settings: Settings
    database: Database
    store: Store
    announcer: Announcer
    planner: Planner
    fleet: FleetView
    callers: Callers
    failed_sign_ins: FailedSignIns
    open_mode: OpenMode
    cached_submits: CachedSubmits
    new_submits: NewSubmits
    lanes: Lanes
    resolutions: Resolutions
    readiness: ReadinessProbe
    upload_room: UploadRoom
    watchers: Watchers
    watch: Watch
    status_reads: SharedReads[Any]  # of builds by `api.builds.streaming`, as the next two
    watched_reads: SharedReads[Any]
    log_reads: SharedReads[bytes]
    keys: FarmKeys
    identity: str  # URI of the farm: the builder's id in what it signs
    leaving: Event  # set once this process ends: those who watch builds are sent to the next one

    def public(self, link: str) -> str:
        """The link as clients reach it: a path of this API begins with the public URL, another link stays as it is."""
        base = self.settings.public_url
        if not base or not link.startswith("/"):
            # Without a public URL a relative link is right for every client that reached the API directly. The links
            # of an S3 store are absolute, and their signature covers the host.
            return link
        return str(base).rstrip("/") + link


@contextmanager
def control_plane(
    settings: Settings, keys: FarmKeys, *, identity: str, starts_open: bool, leaving: Event
) -> Iterator[ControlPlane]:
    """Open the control plane for these settings; it is closed when the block ends.

    Args:
        identity: URI of the farm.
        starts_open: no API key exists, so that requests need none until the first is made.
        leaving: set once this process ends.
    """
    if settings.link_secret is not None:
        link_secret = settings.link_secret.get_secret_value().encode()
    else:
        # The links of a single process may end with it. Several processes must check each other's links, so they are
        # given the same secret.
        link_secret = secrets.token_bytes(32)
    database = Database(settings.database_url.get_secret_value())
    fleet = FleetView(database)
    sources = open_sources(settings, database)
    planner = Planner(settings, sources, fleet)
    store = open_store(settings, link_secret=link_secret)
    announcer = Announcer(celery_app(settings.broker_url.get_secret_value()))
    lanes = Lanes()
    pings = {"database": database.ping, "broker": announcer.ping, "store": store.ping}
    # Connections of their own: cached submits do not wait for those that slow statements use.
    submits_database = Database(settings.database_url.get_secret_value(), pool_size=MOST_BATCHES)
    cached_submits = CachedSubmits(planner, sources, fleet, submits_database)
    new_submits = NewSubmits(fleet, database, announcer)
    try:
        yield ControlPlane(
            settings=settings,
            database=database,
            store=store,
            announcer=announcer,
            planner=planner,
            fleet=fleet,
            callers=Callers(database),
            failed_sign_ins=FailedSignIns(),
            open_mode=OpenMode(database, starts_open=starts_open),
            cached_submits=cached_submits,
            new_submits=new_submits,
            lanes=lanes,
            resolutions=Resolutions(sources, lanes),
            readiness=ReadinessProbe(pings, lanes.probes),
            upload_room=UploadRoom(store),
            watchers=Watchers(settings.watchers_per_key),
            watch=Watch(database, lanes.looks, leaving),
            status_reads=SharedReads(lanes.status),
            watched_reads=SharedReads(lanes.watching, GATHER_SECONDS),
            log_reads=SharedReads(lanes.logs),
            keys=keys,
            identity=identity,
            leaving=leaving,
        )
    finally:
        # In this order: the threads of cached submits use the database.
        cached_submits.close()
        new_submits.close()
        lanes.close()
        submits_database.close()
        database.close()


async def control_of(request: Request) -> ControlPlane:
    """The control plane of the application that serves this request."""
    # A coroutine: FastAPI runs a plain function in a thread, at every request.
    control: ControlPlane = request.app.state.control
    return control


Control = Annotated[ControlPlane, Depends(control_of)]
