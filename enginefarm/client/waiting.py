"""Watch one build until it has ended, by long polls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http import HTTPStatus

from enginefarm.client.answers import require_build
from enginefarm.client.connection import Connection
from enginefarm.client.retry import retrying
from enginefarm.client.urls import path_segment
from enginefarm.contract.errors import FarmError
from enginefarm.wire.bodies import Build

_POLL_SECONDS = 10.0  # how long one long poll asks the farm to delay its response
# Seconds between two long polls, on average: a proxy may answer them at once, and must not be asked in a tight loop.
_ROUND_SECONDS = 0.25
# A client that asked less often catches up by so much: at a build's end several changes follow each other.
_CATCH_UP_SECONDS = 2.0


def fetch_build(
    connection: Connection, build_id: str, *, wait: float | None = None, etag: str | None = None
) -> tuple[Build | None, str | None]:
    """The build and its ETag; None in its place if it is still the one that `etag` names.

    Args:
        wait: seconds for which the farm may delay its response until the build changes.

    Raises:
        IntegrityError: the answer is another build.
    """
    params: dict[str, float] = {}
    headers: dict[str, str] = {}
    if wait is not None:
        params["wait"] = round(wait, 3)
    if etag:
        headers["If-None-Match"] = etag
    path = f"/v1/builds/{path_segment(build_id)}"
    response = connection.request("GET", path, params=params, headers=headers, waits=wait or 0)
    if response.status == HTTPStatus.NOT_MODIFIED:
        return None, etag
    build = connection.parse(Build, response)
    require_build(build, build_id)
    return build, response.headers.get("etag")


def build_changes(connection: Connection, build_id: str, *, deadline: float, patience: float) -> Iterator[Build]:
    """Yield the build as it is, then again after every change, until the monotonic time `deadline`.

    Raises:
        FarmError: the farm could not be reached for `patience` seconds.
    """
    etag: str | None = None
    latest: Build | None = None
    next_round = time.monotonic() - _CATCH_UP_SECONDS
    while True:
        started = time.monotonic()
        build: Build | None = None
        for attempt in retrying(max(0.0, min(patience, deadline - started))):
            with attempt:
                # Without an ETag the farm would delay its response until the build has ended.
                wait = max(0.0, min(_POLL_SECONDS, deadline - time.monotonic())) if etag else 0.0
                try:
                    build, etag = fetch_build(connection, build_id, wait=wait, etag=etag)
                except FarmError:
                    # The caller's own deadline passed while the farm was away: that is not the farm's failure.
                    if time.monotonic() < deadline:
                        raise
        if build is not None and build != latest:
            latest = build
            yield build
        if time.monotonic() >= deadline:
            return
        next_round = max(next_round, started - _CATCH_UP_SECONDS) + _ROUND_SECONDS
        time.sleep(max(0.0, min(next_round, deadline) - time.monotonic()))
