"""One watch for all watched builds: what it costs, and that it misses nothing when notifications are lost."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine.default import DefaultDialect

from api.lanes import Lane
from api.watching import watch as watch_module
from api.watching import watched_build
from api.watching.watch import Watch
from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.changes import Changes, NotifiedChanges
from models.catalogue.database import Database
from models.lifecycle import logs
from models.lifecycle.leases import Claim, renew
from models.lifecycle.submission import cancel
from models.queries.watched import BuildStatus, Look
from tests.api.published import Published
from tests.farm.running_farm import eventually
from tests.models.requests import add_worker, claim_now, new_request, submit_request

_BUILDS = 40


@pytest.fixture(scope="module")
def running(published_farm: Published) -> list[tuple[str, Claim]]:
    """(id, lease on its convert) of builds that run. Each test changes others of them."""
    worker = add_worker(published_farm.database, "watched")
    builds = []
    for number in range(_BUILDS):
        wanted = new_request(f"watched-{number}")
        build_id = submit_request(published_farm.database, wanted).id
        builds.append((build_id, claim_now(published_farm.database, wanted.convert.key, worker, lease=600)))
    return builds


def wait_for_a_new_listener(farm: Published) -> None:
    """Of this test: its interval is that of the test, and it has told the watch."""
    listeners = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"

    def listens() -> bool:
        with farm.database.read() as session:
            count: int = session.execute(text(f"SELECT count(*) {listeners}")).scalar_one()
        return count == 1

    with farm.database.read() as session:
        session.execute(text(f"SELECT pg_terminate_backend(pid, 5000) {listeners}"))
    eventually(listens)
    time.sleep(0.1)


@contextmanager
def watchers(farm: Published, paths: list[str]) -> Iterator[list[socket.socket]]:
    """Requests that last, one for each path."""
    with ExitStack() as stack:
        connections = []
        for path in paths:
            host, _, port = farm.url.removeprefix("http://").partition(":")
            connection = socket.create_connection((host, int(port)), timeout=60)
            connection.sendall(f"GET /v1/builds/{path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            connections.append(stack.enter_context(connection))
        yield connections


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the statements of this process, by the table that they read first. Clear it before use."""
    counter: Counter[str] = Counter()
    execute = DefaultDialect.do_execute

    def counted(dialect: Any, cursor: Any, statement: str, *arguments: Any) -> None:
        table = re.search(r"\bFROM (\w+)", statement)
        counter[table[1] if table else statement] += 1
        execute(dialect, cursor, statement, *arguments)

    monkeypatch.setattr(DefaultDialect, "do_execute", counted)
    return counter


def test_watchers_at_rest_cost_two_statements_in_two_seconds(
    published_farm: Published, running: list[tuple[str, Claim]], statements: Counter[str]
) -> None:
    paths = []
    for build_id, _ in running:
        paths += [f"{build_id}?wait=60", f"{build_id}/events", f"{build_id}/logs?follow=1"]
    with watchers(published_farm, paths):
        wait_for_a_new_listener(published_farm)
        eventually(lambda: not reads_in(statements, 0.5))  # all are served for the first time
        statements.clear()
        time.sleep(2.2)
    assert 1 <= statements["builds"] <= 2, "one look at all builds"
    assert 1 <= statements["log_chunks"] <= 2, "one look at all logs"
    assert statements["attempts"] == 0, "no build was read in full"


def reads_in(statements: Counter[str], seconds: float) -> int:
    """Full reads of builds and reads of logs."""
    before = statements["attempts"]
    time.sleep(seconds)
    return statements["attempts"] - before


def received(connection: socket.socket, expected: bytes) -> bytes:
    """What the connection brings until it has brought `expected`."""
    content = b""
    while expected not in content:
        piece = connection.recv(65536)
        assert piece, f"the answer ended without {expected!r}: {content[-500:]!r}"
        content += piece
    return content


def test_each_watcher_hears_of_a_change_without_a_look(
    published_farm: Published, running: list[tuple[str, Claim]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval is longer than the test: only a notification can tell them."""
    monkeypatch.setattr(NotifiedChanges, "look_seconds", 3600.0)
    build_id, claim = running[0]
    with watchers(
        published_farm, [f"{build_id}?wait=60", f"{build_id}/events", f"{build_id}/logs?follow=1"]
    ) as open_ones:
        poll, events, log = open_ones
        received(events, b"data: ")
        wait_for_a_new_listener(published_farm)
        with published_farm.database.write() as session:
            logs.append(session, claim.key, claim.attempt, 0, b"a line of the log\n")
        received(log, b"a line of the log")
        with published_farm.database.write() as session:
            renew(session, claim, lease_seconds=600, progress=0.5, message="halfway")
        received(events, b"halfway")
        with published_farm.database.write() as session:
            cancel(session, build_id)
        received(events, b"cancelled")
        received(poll, b"cancelled")
        received(log, b"0\r\n\r\n")


def test_a_lost_notification_delays_a_change_and_hides_none(
    published_farm: Published, running: list[tuple[str, Claim]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(_: NotifiedChanges, seconds: float) -> Changes:
        time.sleep(seconds)
        return Changes()

    build_id, claim = running[1]
    with watchers(published_farm, [f"{build_id}/events", f"{build_id}/logs?follow=1"]) as (events, log):
        received(events, b"data: ")
        wait_for_a_new_listener(published_farm)
        monkeypatch.setattr(NotifiedChanges, "wait", deaf)
        time.sleep(0.6)  # the call that went on before has returned
        with published_farm.database.write() as session:
            logs.append(session, claim.key, claim.attempt, 0, b"a line of the log\n")
        received(log, b"a line of the log")
        with published_farm.database.write() as session:
            cancel(session, build_id)
        received(events, b"cancelled")
        received(log, b"0\r\n\r\n")


def test_followers_of_one_log_share_each_read(
    published_farm: Published, running: list[tuple[str, Claim]], statements: Counter[str]
) -> None:
    """Also those of another build that waits for the same actions."""
    build_id, claim = running[2]
    joined_id = submit_request(published_farm.database, new_request("watched-2")).id
    paths = [f"{build_id}/logs?follow=1", f"{joined_id}/logs?follow=1"] * 30
    with watchers(published_farm, paths) as followers:
        for follower in followers:
            received(follower, b"\r\n\r\n")
        wait_for_a_new_listener(published_farm)
        statements.clear()
        start = 0
        for number in range(5):
            line = f"line {number} of the log\n".encode()
            with published_farm.database.write() as session:
                logs.append(session, claim.key, claim.attempt, start, line)
            start += len(line)
            for follower in followers:
                received(follower, line)
        # For each line: where the log ends, the line, and where it ends now. The two looks are the watch's.
        assert statements["log_chunks"] <= 5 * 4 + 2


def test_watchers_survive_connections_that_the_database_ends(
    published_farm: Published, running: list[tuple[str, Claim]]
) -> None:
    build_id, _ = running[3]
    with watchers(published_farm, [f"{build_id}?wait=60", f"{build_id}/events"]) as (poll, events):
        received(events, b"data: ")
        wait_for_a_new_listener(published_farm)
        with published_farm.database.read() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        time.sleep(0.5)
        with published_farm.database.write() as session:
            cancel(session, build_id)
        assert b"200 OK" in received(poll, b"cancelled")
        received(events, b"cancelled")


def test_a_watched_build_that_does_not_exist_is_not_found(published_farm: Published) -> None:
    for path in ("nothing?wait=5", "nothing/events", "nothing/logs?follow=1"):
        assert httpx.get(f"{published_farm.url}/v1/builds/{path}").status_code == 404


def test_watchers_are_told_of_an_outage_that_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_build, "_OUTAGE_SECONDS", 0.5)
    database = Database("postgresql+psycopg://nobody@127.0.0.1:9/nothing")
    watch = Watch(database, Lane("looks", threads=1, per_caller=1, waiting=1), threading.Event())

    async def rounds() -> None:
        while True:
            with suppress(DatabaseUnavailable):
                await watch.round()

    async def watcher() -> None:
        looking = asyncio.create_task(rounds())
        with watch.of("a build") as build:
            with pytest.raises(DatabaseUnavailable):
                await build.ready()
            with pytest.raises(DatabaseUnavailable):
                await build.changed(build.changes.count, 60)
            # "Unchanged" would not be known.
            with pytest.raises(DatabaseUnavailable):
                await build.changed(build.changes.count, 0.01)
        looking.cancel()

    asyncio.run(watcher())
    database.close()


_RUNNING = BuildStatus("the build", "its conversion", "open", "waiting", "running", ())


class _SeenLooks:
    """In place of a lane: what each look sees."""

    def __init__(self, *looks: Look) -> None:
        self._looks = iter(looks)

    async def run(self, _caller: None, _work: object) -> Look:
        return next(self._looks)


@pytest.mark.parametrize("removed", [Look(), Look({"a build": replace(_RUNNING, depends_on=None)})])
def test_a_watched_build_whose_rows_are_removed_leaves_no_keys(monkeypatch: pytest.MonkeyPatch, removed: Look) -> None:
    monkeypatch.setattr(watch_module, "_KEPT_SECONDS", 0.0)
    lane: Any = _SeenLooks(Look({"a build": _RUNNING}), removed)
    database: Any = None  # the lane looks at none
    watch = Watch(database, lane, threading.Event())

    async def watch_until_it_is_removed() -> None:
        with watch.of("a build"):
            await watch.round()
            watch.set_interval(0.0)
            await watch.round()
        watch.set_interval(0.0)
        await watch.round()

    asyncio.run(watch_until_it_is_removed())
    assert not watch.is_needed
    # A key that is left would name a build that the watch has forgotten.
    watch.hear(Changes(logs=["the build", "its conversion"]))
