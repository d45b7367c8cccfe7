"""Watching a build: ETags, long polls, server-sent events and logs, over real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from enginefarm.client.farm import Farm
from models.catalogue.rows import ActionRow, BuildRow
from models.lifecycle import logs
from models.lifecycle.leases import Claim, renew
from models.lifecycle.submission import cancel
from tests.api.conftest import add_model
from tests.api.published import Published
from tests.doubles.weights import weights
from tests.models.requests import add_worker, claim_now

Begin = Callable[[], tuple[str, Claim]]


@pytest.fixture
def begin(published_farm: Published, spec: dict[str, Any], models: Path, request: pytest.FixtureRequest) -> Begin:
    """Submit a build of a model of this test's own, and hold the lease on its convert."""

    def made() -> tuple[str, Claim]:
        name = request.node.name.partition("[")[0]
        add_model(models, name)
        (models / name / "model.safetensors").write_bytes(weights(name.encode()))
        answer = httpx.post(
            f"{published_farm.url}/v1/builds", json=spec | {"model": f"file:{models / name}"}, timeout=60
        )
        assert answer.status_code == 202, answer.text
        return answer.json()["id"], start_attempt(published_farm, answer.json()["id"])

    return made


def start_attempt(published_farm: Published, build_id: str) -> Claim:
    with published_farm.database.read() as session:
        build = session.query(BuildRow).filter_by(id=build_id).one()
        convert = session.get_one(ActionRow, build.key).depends_on
    assert convert is not None
    return claim_now(published_farm.database, convert, add_worker(published_farm.database, "watched"), lease=600)


def cancel_build(published_farm: Published, build_id: str) -> None:
    with published_farm.database.write() as session:
        cancel(session, build_id)


def test_a_joined_build_reports_the_state_running(published_farm: Published, begin: Begin) -> None:
    build_id, _ = begin()
    spec = httpx.get(f"{published_farm.url}/v1/builds/{build_id}").json()["spec"]
    joined = httpx.post(f"{published_farm.url}/v1/builds", json=spec, timeout=60).json()
    assert (joined["disposition"], joined["state"], joined["waiting_for"]) == ("joined", "running", None)
    cancel_build(published_farm, build_id)


def test_an_unchanged_build_is_a_304_for_its_etag(published_farm: Published, begin: Begin) -> None:
    build_id, held = begin()
    url = f"{published_farm.url}/v1/builds/{build_id}"
    first = httpx.get(url)
    tag = first.headers["etag"]
    same = httpx.get(url, headers={"If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    with published_farm.database.write() as session:
        renew(session, held, lease_seconds=600, progress=0.5, message="halfway")
    changed = httpx.get(url, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["message"]) == (200, "halfway")
    assert changed.headers["etag"] != tag
    cancel_build(published_farm, build_id)


def test_a_long_poll_returns_at_a_change(published_farm: Published, begin: Begin) -> None:
    build_id, _ = begin()
    url = f"{published_farm.url}/v1/builds/{build_id}"
    tag = httpx.get(url).headers["etag"]
    timer = threading.Timer(0.5, cancel_build, (published_farm, build_id))
    timer.start()
    answer = httpx.get(url, params={"wait": 60}, headers={"If-None-Match": tag}, timeout=90)
    timer.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")


def test_a_long_poll_without_a_change_is_a_304(published_farm: Published, begin: Begin) -> None:
    build_id, _ = begin()
    url = f"{published_farm.url}/v1/builds/{build_id}"
    tag = httpx.get(url).headers["etag"]
    assert httpx.get(url, params={"wait": 0.2}, headers={"If-None-Match": tag}).status_code == 304
    assert httpx.get(url, params={"wait": 0.2}).json()["state"] == "running"
    cancel_build(published_farm, build_id)


def test_the_client_waits_through_a_real_304(
    published_farm: Published, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginefarm.client.waiting._POLL_SECONDS", 0.2)  # several unchanged answers before the end
    build_id, _ = begin()
    seen: list[str] = []
    timer = threading.Timer(1.5, cancel_build, (published_farm, build_id))
    timer.start()
    with Farm(published_farm.url) as client:
        build = client.wait(build_id, timeout=60, on_update=lambda build: seen.append(str(build.state)))
    timer.join()
    assert str(build.state) == "cancelled"
    assert seen == ["running", "cancelled"]


def test_events_report_each_change_and_end_with_the_build(published_farm: Published, begin: Begin) -> None:
    build_id, held = begin()
    states: list[tuple[str, str | None]] = []
    with httpx.stream("GET", f"{published_farm.url}/v1/builds/{build_id}/events", timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            build = json.loads(line.removeprefix("data: "))
            states.append((build["state"], build["message"]))
            if len(states) == 1:
                with published_farm.database.write() as session:
                    renew(session, held, lease_seconds=600, progress=0.5, message="halfway")
            elif len(states) == 2:
                cancel_build(published_farm, build_id)
    assert states == [("running", None), ("running", "halfway"), ("cancelled", None)]


def test_a_log_is_followed_to_the_end(published_farm: Published, begin: Begin) -> None:
    build_id, held = begin()

    def write(start: int, data: bytes) -> None:
        with published_farm.database.write() as session:
            logs.append(session, held.key, held.attempt, start, data)

    write(0, b"one\n")
    url = f"{published_farm.url}/v1/builds/{build_id}/logs"
    assert httpx.get(url).text == "one\n"
    assert httpx.get(url, params={"offset": 2}).text == "e\n"
    lines: list[str] = []
    with httpx.stream("GET", url, params={"follow": 1}, timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/plain")
        for line in stream.iter_lines():
            lines.append(line)
            if line == "one":
                write(4, b"two\n")
            elif line == "two":
                cancel_build(published_farm, build_id)
    assert lines == ["one", "two"]
