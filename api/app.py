"""The control plane as an ASGI application, with its background loops: the sweep and garbage collection."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from threading import Event

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

import api.http.problems
from api.access.callers import WRITE_USE_SECONDS
from api.access.local_requests import LocalRequestsOnly, is_loopback
from api.access.open_mode import LOOK_SECONDS
from api.bodylimit import BodyLimit
from api.builds.fast_submits import FastSubmits
from api.control import ControlPlane, control_plane
from api.farm_keys import FarmKeys
from api.http.browser_headers import BrowserHeaders
from api.http.leaving import QuietCut
from api.http.openapi import document_of
from api.http.public_path import PublicPath, SlashRedirect
from api.routes import attestations, builds, bundles, engines, fleet, health, planning, registry, retention, upkeep
from api.upkeep import past_builds, registration
from api.upkeep.garbage_collection import collect_garbage
from api.upkeep.past_builds import PastRows
from api.upkeep.registration import register_new_engines
from api.upkeep.sweep import sweep
from api.watching.change_listener import ChangeListener
from enginefarm.version import __version__
from migrations.upgrade import require_current
from models.catalogue.database import Database
from models.loops import Loops
from models.opening import open_sources, open_store, warn_of_missing_roots
from models.queue.broker import celery_app
from models.security.api_keys import any_key
from models.security.farm_identity import farm_identity
from models.settings import Settings
from models.start import StartRefusedError
from toolchains.registry import all_toolchains

log = logging.getLogger(__name__)

_LISTEN_SECONDS = 0.5  # until a first watcher has a listener

_DESCRIPTION = """A build farm for TensorRT-LLM engines. Ask for a model, a precision, shape limits and a platform:
if that engine exists, the answer is immediate; if somebody is building it, the request joins; else it is built once.

Errors are `application/problem+json` with a stable `code`; a bad spec gets *all* of its problems at once."""


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings.

    Raises:
        ValueError: a setting is wrong, or a file that it names.
        StartRefusedError: the catalogue has another version, or others could reach a farm without API keys.
        DatabaseUnavailable: the database does not answer, or refuses this account.
        ValueError: the toolchains cannot be loaded.
    """
    # Loading them takes up to a second, for which the first submit would wait.
    all_toolchains()
    keys = FarmKeys.of(settings)
    identity, starts_open = _require_start(settings)
    loops = Loops()
    leaving = Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with control_plane(settings, keys, identity=identity, starts_open=starts_open, leaving=leaving) as control:
            app.state.control = control
            start_loops(loops, control)
            listener = ChangeListener(control.database, control.watch, asyncio.get_running_loop())
            hearing = loops.thread("the listener for changes", listener.listen, every_seconds=_LISTEN_SECONDS)
            hearing.start()
            # Starlette's first use of a thread imports what anyio needs for it: no request waits for that here.
            await run_in_threadpool(lambda: None)
            first_look = asyncio.create_task(control.readiness.log_once())
            yield
            first_look.cancel()
            # Ended before the control plane is closed: they use its database.
            await loops.stop_tasks()
            listener.close()
            hearing.stop()
            await asyncio.to_thread(hearing.join, _LISTEN_SECONDS)

    app = FastAPI(
        title="Enginefarm",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        # Behind a proxy the page /docs must send its requests to the proxy.
        servers=[{"url": str(settings.public_url)}] if settings.public_url else None,
        root_path_in_servers=False,
        redirect_slashes=False,
    )
    app.state.loops = loops
    app.state.leaving = leaving
    public_url = str(settings.public_url) if settings.public_url else ""
    app.router.default = SlashRedirect(app, public_url=public_url)
    for module in (builds, planning, engines, attestations, upkeep, retention, bundles, fleet, registry, health):
        app.include_router(module.router)
    app.add_middleware(BodyLimit)
    app.add_middleware(FastSubmits)
    app.add_middleware(LocalRequestsOnly)
    api.http.problems.install(app)
    app.add_middleware(BrowserHeaders)  # refusals of the others get these headers, too
    app.add_middleware(PublicPath, public_path=settings.public_path)
    app.add_middleware(QuietCut, leaving=leaving)
    # Once: it depends on the routes alone. FastAPI's own document knows neither the refusals nor their media type.
    document = document_of(app)
    app.openapi = lambda: document  # type: ignore[method-assign]  # as FastAPI's documentation says
    return app


def start_loops(loops: Loops, control: ControlPlane) -> None:
    """Start the background loops of one API process.

    Every process has them: a sweep and a garbage collection may run several times at once, so no process is elected for
    them, and none is missed when it dies.
    """
    settings = control.settings
    loops.start_task("the watch of builds", control.watch.round, every_seconds=0.0)
    loops.start_task("the sweep", partial(sweep, control), every_seconds=settings.sweep_seconds)
    loops.start_task(
        "the registration of engines",
        partial(register_new_engines, control),
        every_seconds=registration.EVERY_SECONDS,
    )
    loops.start_task(
        "the removal of past builds",
        PastRows(control).remove,
        every_seconds=past_builds.EVERY_SECONDS,
        # Several API processes start together.
        first_seconds=random.uniform(0, past_builds.EVERY_SECONDS),  # noqa: S311  # no secret depends on it
    )
    loops.start_task(
        "the record of which API keys were used",
        control.callers.write_use,
        every_seconds=WRITE_USE_SECONDS,
        first_seconds=WRITE_USE_SECONDS,
    )
    if control.open_mode.was_open:
        loops.start_task("the look for the first API key", control.open_mode.look, every_seconds=LOOK_SECONDS)
    if settings.gc_hours is not None:
        every_seconds = settings.gc_hours * 3600
        loops.start_task(
            "garbage collection",
            partial(collect_garbage, control),
            every_seconds=every_seconds,
            # Several API processes start together, and one that is restarted often must not list the whole store at
            # each start.
            first_seconds=random.uniform(0, every_seconds),  # noqa: S311  # no secret depends on it
        )


def _require_start(settings: Settings) -> tuple[str, bool]:
    """Return (the URI of the farm, True if it serves without API keys).

    It serves without keys if none was made, and only this machine can reach it. What is read here is not read again
    when the server runs: a database that goes away in between is an outage then, and no failed start.

    Raises:
        ValueError, StartRefusedError, DatabaseUnavailable: see `create_app`.
    """
    # A connection of its own, closed before the application opens its pool.
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        require_current(database)
        warn_of_missing_roots(settings)
        # What the server opens when it runs, tried here: there an error would be a traceback.
        open_sources(settings, database)
        open_store(settings, link_secret=secrets.token_bytes(32))
        celery_app(settings.broker_url.get_secret_value())
        with database.write() as session:
            identity = farm_identity(session, settings.builder_id)
        with database.read() as session:
            if any_key(session):
                return identity, False
    finally:
        database.close()

    if not is_loopback(settings.host):
        raise StartRefusedError(
            f"no API key exists, and ENGINEFARM_HOST={settings.host} can be reached from elsewhere: "
            "make one with `python -m api.keys create NAME --scope admin`, or listen on 127.0.0.1"
        )
    if settings.public_url is not None:
        raise StartRefusedError(
            f"no API key exists, and ENGINEFARM_PUBLIC_URL={settings.public_url} says that a proxy brings requests "
            "from elsewhere: make one with `python -m api.keys create NAME --scope admin`, or unset it"
        )
    log.warning("NO API KEY: everybody on this machine may do everything. `python -m api.keys create` makes one.")
    return identity, True
