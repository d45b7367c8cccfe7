"""The control plane as an ASGI application, with its background loops: the sweep and garbage collection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import api.http.problems
from api.access.local_requests import LocalRequestsOnly, is_loopback
from api.bodylimit import BodyLimit
from api.control import control_plane
from api.farm_keys import FarmKeys
from api.http.browser_headers import BrowserHeaders
from api.http.openapi import document_of
from api.routes import attestations, builds, bundles, engines, fleet, health, planning, registry, retention, upkeep
from api.upkeep.garbage_collection import clean_up_forever
from api.upkeep.key_use import write_key_use_forever
from api.upkeep.sweep import sweep_forever
from enginefarm.version import __version__
from migrations.upgrade import versions
from models.catalogue.database import Database
from models.security.api_keys import any_key
from models.settings import Settings

log = logging.getLogger(__name__)

_DESCRIPTION = """A build farm for TensorRT-LLM engines. Ask for a model, a precision, shape limits and a platform:
if that engine exists, the answer is immediate; if somebody is building it, the request joins; else it is built once.

Errors are `application/problem+json` with a stable `code`; a bad spec gets *all* of its problems at once."""


class StartRefusedError(Exception):
    """The process must not serve with these settings; the text says what to do."""


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings.

    Raises:
        StartRefusedError: the catalogue has another version, or others could reach a farm without API keys.
    """
    keys = FarmKeys.of(settings)
    starts_open = _require_safe_start(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with control_plane(settings, keys, starts_open=starts_open) as control:
            app.state.control = control
            # In every API process: a sweep and a garbage collection may run several times at once, so no process is
            # elected for them, and none is missed when it dies.
            loops = [
                asyncio.create_task(sweep_forever(control)),
                asyncio.create_task(write_key_use_forever(control.callers)),
            ]
            if starts_open:
                loops.append(asyncio.create_task(control.open_mode.close_with_the_first_key()))
            if settings.gc_hours is not None:
                loops.append(asyncio.create_task(clean_up_forever(control, every_seconds=settings.gc_hours * 3600)))
            yield
            # Ended before the control plane is closed: they use its database.
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    app = FastAPI(
        title="Enginefarm",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        # Behind a proxy the page /docs must send its requests to the proxy.
        servers=[{"url": str(settings.public_url)}] if settings.public_url else None,
    )
    for module in (builds, planning, engines, attestations, upkeep, retention, bundles, fleet, registry, health):
        app.include_router(module.router)
    app.add_middleware(BodyLimit)
    app.add_middleware(LocalRequestsOnly)
    api.http.problems.install(app)
    app.add_middleware(BrowserHeaders)  # the outermost: refusals of the others get these headers, too
    # Once: it depends on the routes alone. FastAPI's own document knows neither the refusals nor their media type.
    document = document_of(app)
    app.openapi = lambda: document  # type: ignore[method-assign]  # as FastAPI's documentation says
    return app


def _require_safe_start(settings: Settings) -> bool:
    """Return True if the farm serves without API keys: none was made, and only this machine can reach it.

    Raises:
        StartRefusedError: see `create_app`.
    """
    # A connection of its own, closed before the application opens its pool.
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        database.ping()  # raises DatabaseUnavailable, with one line, if it does not answer
        catalogue_version, program_version = versions(database.engine)
        if catalogue_version != program_version:
            raise StartRefusedError(
                f"the catalogue is at version {catalogue_version or 'none'}, this program needs {program_version}: "
                "run `python -m migrations.upgrade`"
            )
        with database.read() as session:
            if any_key(session):
                return False
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
    return True
