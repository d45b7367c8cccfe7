"""Submits get the same answers and leave the same rows with the fast path and without it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import func, select, update
from starlette.types import ASGIApp

import api.app
from api.access import callers
from api.builds import fast_submits
from api.builds.submit import accepted
from api.planning import fleet_view
from api.submits import new_submits
from enginefarm.contract.stage import Stage
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, BuildRow, EngineRow
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.security import api_keys
from models.security.api_keys import Scope
from tests.api.published import served, settings_in
from tests.enginefarm.http_double import wait_until
from tests.migrated import set_up_new_farm
from tests.models.requests import ENGINE, add_worker, claim_now, one_file_manifest
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey

Headers = list[tuple[str, str]]

_JSON = ("Content-Type", "application/json")
_PUBLIC = "http://farm.example/farm"


@dataclass
class TwoServers:
    """Two API processes of one farm; only the first has the fast path. `body` asks for an engine that exists."""

    fast: str
    ordinary: str
    database: Database
    body: bytes
    submitter: str
    reader: str
    fast_answers: list[str]  # the builds that the fast path answered

    def post(self, url: str, key: str | None = None) -> httpx.Response:
        headers = dict([_JSON])
        headers["Authorization"] = f"Bearer {key or self.submitter}"
        return httpx.post(f"{url}/v1/builds", content=self.body, headers=headers, timeout=60)

    def row(self, build_id: str) -> dict[str, Any]:
        with self.database.read() as session:
            row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one()
        columns = {name: value for name, value in vars(row).items() if not name.startswith("_")}
        for own in ("id", "seq", "created_at"):
            assert columns.pop(own) is not None
        columns["ended_at"] = columns["ended_at"] is not None
        return columns

    def builds(self) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(BuildRow)) or 0


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def servers(
    request: pytest.FixtureRequest,
    postgres: Databases,
    valkey: Valkey,
    models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TwoServers]:
    folder = tmp_path_factory.mktemp("fast")
    settings = {
        "BROKER_URL": valkey.url, "MODEL_ROOTS": str(models), "WORKER_SECONDS": "3600", "PUBLIC_URL": _PUBLIC,
    }  # fmt: skip
    if request.param == "postgresql":
        settings["DATABASE_URL"] = postgres.create_migrated()
    farm_settings = settings_in(folder, **settings)
    set_up_new_farm(farm_settings)
    database = Database(farm_settings.database_url.get_secret_value())
    with database.write() as session:
        submitter = api_keys.create(session, "submitter", [Scope.SUBMIT])
        reader = api_keys.create(session, "reader", [Scope.READ])
    fast_answers: list[str] = []

    def noted(control: Any, submitted: Any) -> Any:
        fast_answers.append(submitted.id)
        return accepted(control, submitted)

    spec = {
        "model": f"file:{models / 'tiny'}", "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64}, "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_submits, "accepted", noted)
        # Both see the worker from its first moment on.
        patch.setattr(fleet_view, "_SECONDS", 0.0)
        with served(farm_settings) as fast:
            patch.setattr(api.app, "FastSubmits", _without_fast_path)
            with served(farm_settings) as ordinary:
                farm = TwoServers(fast, ordinary, database, json.dumps(spec).encode(), submitter, reader, fast_answers)
                _publish(database, farm.post(fast).json()["key"])
                for url in (fast, ordinary):
                    assert farm.post(url).status_code == 200
                yield farm
    database.close()
    if request.param == "postgresql":
        postgres.drop(settings["DATABASE_URL"])


def _without_fast_path(app: ASGIApp) -> ASGIApp:
    return app


def _publish(database: Database, key: str) -> None:
    with database.read() as session:
        build = session.get_one(ActionRow, key)
        actions = [session.get_one(ActionRow, build.depends_on), build]
    worker = add_worker(database, queues=tuple(action.queue for action in actions))
    for action in actions:
        claim = claim_now(database, action.key, worker)
        manifest = one_file_manifest(action.stage)
        with database.write() as session:
            if action.stage == Stage.CONVERT:
                publish_checkpoint(session, claim, manifest, facts={}, steps={})
            else:
                publish_engine(session, claim, manifest, engine=ENGINE, steps={})


def _comparable(response: httpx.Response) -> tuple[int, list[tuple[str, str]], str]:
    """Status, headers and body without the id of the build and the time of day."""
    body = response.text
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "date"]
    if '"disposition"' in body and "location" in response.headers:
        build_id = response.json()["id"]
        body = body.replace(build_id, "ID")
        headers = [(name, value.replace(build_id, "ID")) for name, value in headers]
    return response.status_code, sorted(headers), body


def test_an_engine_that_exists_is_answered_and_recorded_alike(servers: TwoServers) -> None:
    fast, ordinary = servers.post(servers.fast), servers.post(servers.ordinary)
    fast_id, ordinary_id = fast.json()["id"], ordinary.json()["id"]
    assert fast_id in servers.fast_answers
    assert ordinary_id not in servers.fast_answers
    assert fast.status_code == 200
    assert _comparable(fast) == _comparable(ordinary)
    assert fast.headers["location"] == f"{_PUBLIC}/v1/builds/{fast_id}"
    assert servers.row(fast_id) == servers.row(ordinary_id)


_SUBMITTER = "the key of `servers`"

_HEADERS: dict[str, Headers] = {
    "no key": [_JSON],
    "no key and no type": [],
    "scheme in lower case": [_JSON, ("Authorization", f"bearer {_SUBMITTER}")],
    "two spaces": [_JSON, ("Authorization", f"Bearer  {_SUBMITTER}")],
    "a password": [_JSON, ("Authorization", f"Basic {_SUBMITTER}")],
    "only the scheme": [_JSON, ("Authorization", "Bearer")],
    "a key of another farm": [_JSON, ("Authorization", f"Bearer ef_0123456789ab_{'a' * 43}")],
    "a key that is not ASCII": [_JSON, ("Authorization", "Bearer ef_é")],
    "two keys, the first is right": [_JSON, ("Authorization", f"Bearer {_SUBMITTER}"), ("Authorization", "Bearer x")],
    "two keys, the second is right": [_JSON, ("Authorization", "Bearer x"), ("Authorization", f"Bearer {_SUBMITTER}")],
    "no type": [("Authorization", f"Bearer {_SUBMITTER}")],
    "plain text": [("Content-Type", "text/plain"), ("Authorization", f"Bearer {_SUBMITTER}")],
    "JSON with a charset": [
        ("Content-Type", "application/json; charset=utf-8"), ("Authorization", f"Bearer {_SUBMITTER}"),
    ],
    "two types": [_JSON, ("Content-Type", "text/plain"), ("Authorization", f"Bearer {_SUBMITTER}")],
    "a header that the farm does not know": [_JSON, ("Authorization", f"Bearer {_SUBMITTER}"), ("X-Unknown", "1")],
    "from a page": [_JSON, ("Authorization", f"Bearer {_SUBMITTER}"), ("Origin", "http://elsewhere.example")],
}  # fmt: skip


@pytest.mark.parametrize("name", _HEADERS)
def test_headers_lead_to_the_same_answer(servers: TwoServers, name: str) -> None:
    answers = []
    for url in (servers.fast, servers.ordinary):
        headers = [
            (header.encode(), value.replace(_SUBMITTER, servers.submitter).encode()) for header, value in _HEADERS[name]
        ]
        answers.append(_comparable(httpx.post(f"{url}/v1/builds", content=servers.body, headers=headers, timeout=60)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/builds"), ("HEAD", "/v1/builds"), ("OPTIONS", "/v1/builds"), ("PUT", "/v1/builds"),
        ("POST", "/v1/builds/"), ("POST", "/farm/v1/builds"), ("POST", "/v1/builds?require_worker=true"),
        ("POST", "/v1/builds?require_worker=perhaps"), ("POST", "/v1/builds?x=%00"), ("POST", "/v1/builds?"),
        ("POST", "/v1/build%73"), ("POST", "//v1/builds"), ("POST", "/v1/plan"),
    ],
)  # fmt: skip
def test_methods_and_paths_lead_to_the_same_answer(servers: TwoServers, method: str, path: str) -> None:
    headers = dict([_JSON, ("Authorization", f"Bearer {servers.submitter}")])
    answers = []
    for url in (servers.fast, servers.ordinary):
        response = httpx.request(method, f"{url}{path}", content=servers.body, headers=headers, timeout=60)
        status, _, body = answer = _comparable(response)
        # A listing shows what the other requests recorded in between.
        answers.append((status, body == "") if method == "GET" else answer)
    assert answers[0] == answers[1]


def _chunks(body: bytes) -> Iterator[bytes]:
    yield body[:10]
    yield body[10:]


@pytest.mark.parametrize(
    "name", ["chunked", "with a byte order mark", "with spaces", "empty", "cut", "no JSON", "huge", "huge and chunked"]
)
def test_bodies_lead_to_the_same_answer(servers: TwoServers, name: str) -> None:
    body = servers.body
    contents: dict[str, Any] = {
        "chunked": lambda: _chunks(body), "with a byte order mark": lambda: b"\xef\xbb\xbf" + body,
        "with spaces": lambda: body + b" \n", "empty": lambda: b"", "cut": lambda: body[:-1],
        "no JSON": lambda: b"\xff" * 100, "huge": lambda: body + b" " * (2 << 20),
        "huge and chunked": lambda: _chunks(body + b" " * (2 << 20)),
    }  # fmt: skip
    headers = dict([_JSON, ("Authorization", f"Bearer {servers.submitter}")])
    answers = []
    for url in (servers.fast, servers.ordinary):
        for _ in range(2):  # the second time, the fast path may know the body
            response = httpx.post(f"{url}/v1/builds", content=contents[name](), headers=headers, timeout=60)
            answers.append(_comparable(response))
    assert answers == [answers[0]] * 4


@pytest.mark.parametrize("seconds", [0.05, fast_submits._BODY_SECONDS + 0.2])
def test_a_body_in_two_parts_leads_to_the_same_answer(servers: TwoServers, seconds: float) -> None:
    head = (
        f"POST /v1/builds HTTP/1.1\r\nHost: farm\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Authorization: Bearer {servers.submitter}\r\nContent-Length: {len(servers.body)}\r\n\r\n"
    )
    for url in (servers.fast, servers.ordinary):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as connection:
            connection.sendall(head.encode() + servers.body[:20])
            time.sleep(seconds)
            connection.sendall(servers.body[20:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"disposition":"cached"' in answer


def test_a_key_without_the_scope_gets_the_same_refusal(servers: TwoServers) -> None:
    before = servers.builds()
    answers = [_comparable(servers.post(url, servers.reader)) for url in (servers.fast, servers.ordinary)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 403
    assert servers.builds() == before


def test_a_revoked_key_gets_the_same_refusal(servers: TwoServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_SECONDS", 0.0)
    with servers.database.write() as session:
        key = api_keys.create(session, "revoked", [Scope.SUBMIT])
    for url in (servers.fast, servers.ordinary):
        assert servers.post(url, key).status_code == 200
    with servers.database.write() as session:
        api_keys.revoke(session, "revoked")
    answers = [_comparable(servers.post(url, key)) for url in (servers.fast, servers.ordinary)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 401


def test_a_withdrawn_engine_is_not_answered(servers: TwoServers) -> None:
    withdraw = update(EngineRow).values(quarantined_at=now(), quarantine_reason="a test")
    with servers.database.write() as session:
        session.execute(withdraw)
    try:
        answers = [servers.post(url) for url in (servers.fast, servers.ordinary, servers.fast)]
    finally:
        with servers.database.write() as session:
            session.execute(update(EngineRow).values(quarantined_at=None, quarantine_reason=None))
    assert [answer.status_code for answer in answers] == [202] * 3
    dispositions = [answer.json()["disposition"] for answer in answers]
    assert dispositions == ["created", "joined", "joined"]
    for url in (servers.fast, servers.ordinary):
        assert servers.post(url).status_code == 200


def _post_spec(servers: TwoServers, url: str, spec: dict[str, Any], **query: str) -> httpx.Response:
    headers = dict([_JSON, ("Authorization", f"Bearer {servers.submitter}")])
    return httpx.post(f"{url}/v1/builds", content=json.dumps(spec), headers=headers, params=query, timeout=60)


def test_a_build_in_flight_is_joined_and_recorded_alike(servers: TwoServers) -> None:
    spec = json.loads(servers.body) | {"limits": {"max_input_len": 32, "max_output_len": 32}}
    urls = (servers.fast, servers.ordinary)
    for url in urls:
        assert _post_spec(servers, url, spec).status_code == 202
    fast, ordinary = (_post_spec(servers, url, spec) for url in urls)
    assert fast.json()["id"] in servers.fast_answers
    assert fast.json()["disposition"] == "joined"
    assert _comparable(fast) == _comparable(ordinary)
    assert servers.row(fast.json()["id"]) == servers.row(ordinary.json()["id"])


def test_a_known_body_that_requires_a_worker_gets_the_same_refusal(servers: TwoServers) -> None:
    platform = json.loads(servers.body)["platform"] | {"cpu_isa": "x86-64-v4"}  # of no worker
    spec = json.loads(servers.body) | {"platform": platform}
    urls = (servers.fast, servers.ordinary)
    for url in urls:
        assert _post_spec(servers, url, spec).status_code == 202
    before = servers.builds()
    answers = [_comparable(_post_spec(servers, url, spec, require_worker="true")) for url in urls]
    assert answers[0] == answers[1]
    assert answers[0][0] == 422
    assert servers.builds() == before


def test_a_known_body_gets_the_same_refusal_if_too_many_submits_wait(
    servers: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = json.loads(servers.body) | {"limits": {"max_input_len": 16, "max_output_len": 16}}
    urls = (servers.fast, servers.ordinary)
    for url in urls:
        assert _post_spec(servers, url, spec).status_code == 202
    monkeypatch.setattr(new_submits, "_MOST_WAITING", 0)
    answers = [_comparable(_post_spec(servers, url, spec)) for url in urls]
    assert answers[0] == answers[1]
    assert answers[0][0] == 429


def test_an_invalid_spec_gets_the_same_refusal_each_time(servers: TwoServers) -> None:
    spec = json.loads(servers.body) | {"toolchain": {"name": "aoti", "version": "0.0.0"}}
    urls = (servers.fast, servers.ordinary)
    answers = [_comparable(_post_spec(servers, url, spec)) for url in urls * 2]
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 422


def test_a_changed_model_is_not_answered(servers: TwoServers) -> None:
    config = Path(json.loads(servers.body)["model"].removeprefix("file:")) / "config.json"
    before = config.read_text()
    config.write_text(before + " ")
    try:
        # Twice: by the second time each server has resolved the changed model, and has the plan of the old one.
        answers = [servers.post(url) for url in (servers.fast, servers.ordinary) * 2]
    finally:
        config.write_text(before)
    assert [answer.json()["disposition"] for answer in answers] == ["created", "joined", "joined", "joined"]


def test_submits_at_once_are_recorded_with_their_own_keys(servers: TwoServers) -> None:
    with servers.database.write() as session:
        other = api_keys.create(session, "other", [Scope.ADMIN])
    keys = [servers.submitter, other] * 16
    urls = [servers.fast, servers.fast, servers.ordinary, servers.ordinary] * 8
    with ThreadPoolExecutor(len(keys)) as pool:
        answers = list(pool.map(servers.post, urls, keys))
    ids = [answer.json()["id"] for answer in answers]
    assert len(set(ids)) == len(keys)
    names = [servers.row(build_id)["requested_by"] for build_id in ids]
    assert names == ["submitter", "other"] * 16


@pytest.mark.parametrize("key_seconds", [0.0, 3600.0], ids=["the keys cannot be read", "the build cannot be recorded"])
def test_an_outage_of_the_database_gets_the_same_answer(
    servers: TwoServers, postgres: Databases, key_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servers.database.engine.url
    if url.get_backend_name() != "postgresql":
        pytest.skip("SQLite is a file, which does not go away")
    monkeypatch.setattr(callers, "_SECONDS", key_seconds)
    name = f'"{url.database}"'
    _execute(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    _execute(postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'")
    try:
        # Whether the first submit meets a connection that was cut depends on the sweep.
        for server in (servers.fast, servers.ordinary):
            servers.post(server)
        answers = [_comparable(servers.post(server)) for server in (servers.fast, servers.ordinary)]
    finally:
        _execute(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert answers[0] == answers[1]
    assert answers[0][0] == 503
    for server in (servers.fast, servers.ordinary):
        # The first submits may still get connections that were cut.
        wait_until(lambda server=server: servers.post(server).status_code == 200, seconds=20)  # type: ignore[misc]


def _execute(postgres: Databases, statement: str) -> None:
    dsn = postgres.url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        connection.execute(statement)
