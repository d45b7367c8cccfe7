"""Attacks with an API key, or on an open farm: one caller tries to keep the farm busy for itself."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.builds import streaming
from enginefarm.contract.errors import MAX_PROBLEMS
from models.queries.builds import get_build
from models.security import api_keys as access
from tests.api.conftest import add_model
from tests.api.published import Published, published
from tests.attack import ROUNDS
from tests.servers.hub import Hub

# A good caller is answered in milliseconds. The bound is generous, because test machines are busy.
_PROMPT_SECONDS = 20.0
_WATCHERS = 200


class Attacked:
    """A farm with API keys in this process, with a hub that can hang."""

    def __init__(self, farm: Published, hub: Hub, models: Path) -> None:
        self.farm = farm
        self.hub = hub
        self.models = models
        self.keys = {}
        with farm.database.write() as session:
            for name in ("attacker", "neighbour"):
                self.keys[name] = access.create(session, name, [access.Scope.ADMIN])

    def spec(self, model: str) -> dict[str, Any]:
        return {
            "model": model, "toolchain": {"name": "aoti", "version": "2.13.0"},
            "limits": {"max_input_len": 64, "max_output_len": 64},
            "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
        }  # fmt: skip

    def ask(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        """A request that is answered promptly."""
        headers = {"Authorization": f"Bearer {self.keys[name]}"}
        begin = time.monotonic()
        answer = httpx.request(method, f"{self.farm.url}{path}", headers=headers, timeout=60, **options)
        assert time.monotonic() - begin < _PROMPT_SECONDS, f"{method} {path} waited"
        return answer

    def begin(self, name: str, method: str, path: str, body: bytes = b"", length: int | None = None) -> socket.socket:
        """Send a request, or the beginning of one whose body has `length` bytes, without waiting for the answer."""
        connection = socket.create_connection(("127.0.0.1", int(self.farm.url.rpartition(":")[2])), timeout=60)
        head = f"{method} {path} HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer {self.keys[name]}\r\n"
        if method != "GET":
            size = len(body) if length is None else length
            head += f"Content-Type: application/json\r\nContent-Length: {size}\r\n"
        connection.sendall(head.encode() + b"\r\n" + body)
        return connection


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    models = tmp_path_factory.mktemp("models")
    add_model(models, "tiny")
    add_model(models, "watched")
    with Hub() as hub:
        settings: dict[str, Any] = {
            "MODEL_ROOTS": str(models),
            "HF_ENDPOINT": hub.url,
            "WATCHERS_PER_KEY": str(_WATCHERS),
        }
        folder = tmp_path_factory.mktemp("farm")
        # Made with a key, so that the farm starts guarded.
        with published(folder, guarded=True, **settings) as farm:
            yield Attacked(farm, hub, models)


def answered(connections: list[socket.socket]) -> list[bytes]:
    """The first bytes of the answers that came so far."""
    answers = []
    for connection in connections:
        connection.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            answers.append(connection.recv(65536))
    return answers


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_submits_to_a_dead_hub_delay_no_other_work(attacked: Attacked) -> None:
    attacked.hub.open.clear()
    asked_before = len(attacked.hub.requests)
    with ExitStack() as stack:
        stack.callback(attacked.hub.open.set)
        many = []
        for number in range(100):
            body = json.dumps(attacked.spec(f"hf:org/slow-{number}")).encode()
            many.append(stack.enter_context(attacked.begin("attacker", "POST", "/v1/builds", body)))
        wait_until(lambda: len(attacked.hub.requests) > asked_before)

        # The same caller, with work that needs no hub.
        for name in ("attacker", "neighbour"):
            spec = attacked.spec(f"file:{attacked.models / 'tiny'}")
            submitted = attacked.ask(name, "POST", "/v1/builds", json=spec)
            assert submitted.status_code == 202, submitted.text
            assert attacked.ask(name, "GET", f"/v1/builds/{submitted.json()['id']}").status_code == 200
            assert attacked.ask(name, "GET", "/v1/builds").status_code == 200
            assert attacked.ask(name, "POST", "/v1/builds:explain", json=spec).status_code == 200
        assert attacked.ask("neighbour", "GET", "/healthz").status_code == 200
        attacked.ask("neighbour", "GET", "/readyz")

        # Another caller gets a thread for the hub, too, although the first has many in the queue.
        other = json.dumps(attacked.spec("hf:org/other")).encode()
        stack.enter_context(attacked.begin("neighbour", "POST", "/v1/builds", other))
        wait_until(lambda: attacked.hub.asked_for("org/other") > 0)

        # What no longer fits into the queue is told so at once.
        refusals = [answer for answer in answered(many) if answer.startswith(b"HTTP/1.1 429 ")]
        assert refusals
        assert b"retry-after: 5" in refusals[0].lower()
        # The caller leaves: what had not begun is not done for nobody.
        for connection in many:
            connection.close()
        time.sleep(1)
        asked_until_then = attacked.hub.asked_for("org/slow")
        attacked.hub.open.set()
        time.sleep(1)
    # Those that ran when it left may ask for another file each.
    assert attacked.hub.asked_for("org/slow") - asked_until_then <= 16


def test_watchers_of_a_build_share_their_reads(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = attacked.ask(
        "attacker", "POST", "/v1/builds", json=attacked.spec(f"file:{attacked.models / 'watched'}")
    )
    path = f"/v1/builds/{submitted.json()['id']}"
    reads = []

    def counted(session: Any, build_id: str) -> Any:
        reads.append(build_id)
        return get_build(session, build_id)

    monkeypatch.setattr(streaming, "get_build", counted)
    with ExitStack() as stack:
        watchers = []
        for number in range(_WATCHERS):
            suffix = ("/events", "/logs?follow=1", "?wait=60")[number % 3]
            watchers.append(stack.enter_context(attacked.begin("attacker", "GET", path + suffix)))
        time.sleep(2)
        reads.clear()
        time.sleep(3)
        assert 0 < len(reads) < 10, "its place in the queue is read every two seconds, once for all"

        one_more = attacked.ask("attacker", "GET", f"{path}?wait=60")
        assert (one_more.status_code, one_more.headers["retry-after"]) == (429, "5")
        assert "WATCHERS_PER_KEY" in one_more.json()["detail"]
        assert attacked.ask("attacker", "GET", path).status_code == 200
        assert attacked.ask("neighbour", "GET", f"{path}?wait=0.2").status_code == 200
    # Everybody left: nothing reads any more, and there is room for other watchers.
    wait_until(lambda: attacked.ask("attacker", "GET", f"{path}?wait=0.1").status_code == 200)
    time.sleep(0.5)
    reads.clear()
    time.sleep(2.5)
    assert not reads


def test_an_answer_has_a_limited_number_of_problems(attacked: Attacked) -> None:
    spec = attacked.spec(f"file:{attacked.models / 'tiny'}")
    wrong = spec | {f"unknown{number}": 1 for number in range(40_000)}
    answer = attacked.ask("attacker", "POST", "/v1/builds", json=wrong)
    problems = answer.json()["errors"]
    assert (answer.status_code, len(problems)) == (422, MAX_PROBLEMS + 1)
    assert problems[-1]["detail"] == f"and {40_000 - MAX_PROBLEMS} more problems"
    assert len(answer.content) < 100_000
    # Every cell of a matrix has problems of its own.
    wrong = spec | {f"unknown{number}": 1 for number in range(300)}
    wrong["limits"] = {"max_input_len": list(range(1, 17)), "max_output_len": list(range(1, 17))}
    answer = attacked.ask("attacker", "POST", "/v1/builds:matrix", json=wrong)
    assert answer.status_code == 200
    assert len(answer.json()["cells"]) == 256
    assert len(answer.content) < 1_000_000
    wrong |= {f"unknown{number}": 1 for number in range(1000)}
    answer = attacked.ask("attacker", "POST", "/v1/builds:matrix", json=wrong)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "too_many_values")


def test_an_upload_that_stops_is_ended(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.bodylimit.SILENT_SECONDS", 2.0)
    digest = "sha256:" + "0" * 64
    staging = attacked.farm.store / "staging"
    with ExitStack() as stack:
        stalled = []
        for _ in range(ROUNDS * 6):
            upload = attacked.begin("attacker", "PUT", f"/v1/blobs/{digest}", b"x" * 1000, length=10_000_000)
            stalled.append(stack.enter_context(upload))
        wait_until(lambda: bool(list(staging.iterdir())))
        # Other callers upload meanwhile.
        good = attacked.ask("neighbour", "PUT", f"/v1/blobs/{digest}", content=b"wrong bytes")
        assert good.status_code == 400
        # Those above the lane's places are refused; the others are ended, and no upload waits for ever.
        statuses = [connection.recv(65536).split(b" ", 2)[1] for connection in stalled]
        assert statuses.count(b"408") >= 6
        assert set(statuses) <= {b"408", b"429"}
    assert not list(staging.iterdir()), "the temporary files are gone"
    assert attacked.ask("attacker", "PUT", f"/v1/blobs/{digest}", content=b"y").status_code == 400


def test_a_body_without_an_api_key_is_not_read(attacked: Attacked) -> None:
    attacked.keys["nobody"] = "ef_wrong"
    for path in ("/v1/builds", "/v1/engines:import"):
        with attacked.begin("nobody", "POST", path, b"{", length=1_000_000) as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    with attacked.begin("nobody", "PUT", "/v1/blobs/sha256:" + "0" * 64, b"{", length=1 << 40) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_body_that_trickles_is_ended(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.bodylimit.SLOW_SECONDS", 1.5)
    begin = time.monotonic()
    with attacked.begin("attacker", "POST", "/v1/builds", b"{", length=1000) as connection:
        connection.settimeout(0.1)
        answer = b""
        while not answer:
            with contextlib.suppress(TimeoutError):
                connection.sendall(b" ")
                answer = connection.recv(65536)
            assert time.monotonic() - begin < 20
    assert answer.startswith(b"HTTP/1.1 408 ")
