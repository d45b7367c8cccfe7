"""Servers that the API asks hang in every way: submits are refused in time, and nothing else waits for them."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from api.upkeep import sweep
from migrations.upgrade import set_up
from models.outbound import uninterruptible
from models.settings import Settings
from models.sources import bucket_source
from models.sources.hub import model_source
from tests.api.published import served, settings_in
from tests.servers.hostile import HostileServer, RawRequest, head, trickle
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey
from tests.servers.server import free_port
from tests.servers.silent import full_server, silent_server

SUBMITS = 45
# The farm promises 15 s. The machines of tests are busy.
ANSWERED_SECONDS = 20.0
PROMPT_SECONDS = 5.0


@contextmanager
def hostile(answer: Callable[[RawRequest], Iterator[bytes]]) -> Iterator[str]:
    with HostileServer(answer) as server:
        yield server.address


def drip(_: RawRequest) -> Iterator[bytes]:
    yield from trickle(head(Content_Length=1 << 20), pause=1.0)


def stall(_: RawRequest) -> Iterator[bytes]:
    yield head(Content_Length=1 << 20)
    time.sleep(30)


@contextmanager
def without_name_server() -> Iterator[str]:
    """A name that no name server answers for: the look-up hangs in the C library."""
    look_up, over = socket.getaddrinfo, threading.Event()

    def hang(host: Any, *arguments: Any, **named: Any) -> Any:
        if host == "models.example":
            over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return look_up(host, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", hang)
        yield f"models.example:{free_port()}"
        over.set()


HANGS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "accepts and never answers": silent_server,
    "drops each SYN": full_server,
    "a byte a second": lambda: hostile(drip),
    "stalls after its headers": lambda: hostile(stall),
    "no name server": without_name_server,
}


@pytest.fixture(scope="module")
def farm_settings(
    valkey: Valkey, postgres: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Settings]]:
    url, folder = postgres.create_migrated(), tmp_path_factory.mktemp("farm")

    def settings(**more: str) -> Settings:
        return settings_in(folder, DATABASE_URL=url, BROKER_URL=valkey.url, **more)

    set_up(settings())
    yield settings
    postgres.drop(url)


def spec(model: str) -> dict[str, Any]:
    return {
        "model": model, "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64}, "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
    }  # fmt: skip


def submit(client: httpx.Client, model: str) -> tuple[float, httpx.Response]:
    """Seconds to the answer, and the answer."""
    began = time.monotonic()
    answer = client.post("/v1/builds", json=spec(model))
    return time.monotonic() - began, answer


def slowest(url: str, until: Callable[[], bool]) -> dict[str, float]:
    """The slowest answer of each route that must not wait, in seconds, asked until `until` says so."""
    seconds: dict[str, float] = {}
    while not until():
        for path in ("/readyz", "/v1/builds", "/v1/engines", "/v1/workers"):
            began = time.monotonic()
            assert httpx.get(url + path, timeout=60).status_code == 200, path
            seconds[path] = max(seconds.get(path, 0.0), time.monotonic() - began)
        time.sleep(0.2)
    return seconds


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("s3", "accepts and never answers"),
        ("hf", "accepts and never answers"),
        # One scheme for each other kind: both go through the same limits, and a case takes seconds.
        ("s3", "drops each SYN"),
        ("hf", "a byte a second"),
        ("s3", "stalls after its headers"),
        ("hf", "no name server"),
    ],
)
def test_45_submits_to_a_server_that_hangs_are_refused_in_time_and_hold_nothing_up(
    kind: str, scheme: str, farm_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "accepts and never answers":
        # The promise takes its time once for each scheme. The other kinds of hanging must end at the same limit.
        monkeypatch.setattr(bucket_source, "RESOLVE_SECONDS", 1.0)
        monkeypatch.setattr(model_source, "RESOLVE_SECONDS", 1.0)
    setting = {"s3": "MODELS_S3_ENDPOINT", "hf": "HF_ENDPOINT"}[scheme]
    reference = {"s3": "s3://models/tiny-{}", "hf": "hf:org/tiny-{}"}[scheme]
    sweeps: list[float] = []
    sweep_once = sweep.sweep_once

    def timed_sweep(*arguments: Any) -> int:
        swept = sweep_once(*arguments)
        sweeps.append(time.monotonic())
        return swept

    monkeypatch.setattr(sweep, "sweep_once", timed_sweep)
    with (
        HANGS[kind]() as address,
        served(farm_settings(**{setting: f"http://{address}"}, SWEEP_SECONDS="0.2")) as url,
        httpx.Client(base_url=url, timeout=120) as client,
        ThreadPoolExecutor(SUBMITS) as pool,
    ):
        answers = [pool.submit(submit, client, reference.format(number)) for number in range(SUBMITS)]
        seconds = slowest(url, lambda: all(answer.done() for answer in answers))
        took = [answer.result()[0] for answer in answers]
        problems = [answer.result()[1].json() for answer in answers]
    assert max(took) < ANSWERED_SECONDS, took
    assert {(problem["status"], problem["code"]) for problem in problems} == {(503, "source_unavailable")}
    for problem in problems:
        assert address.partition(":")[0] in problem["detail"], problem
        assert f"ENGINEFARM_{setting}" in problem["detail"], problem
    assert max(seconds.values()) < PROMPT_SECONDS, seconds
    pauses = [after - before for before, after in itertools.pairwise(sweeps)]
    assert pauses, "the sweep stood still"
    assert max(pauses) < PROMPT_SECONDS, pauses


def test_a_store_that_hangs_is_named_by_readyz_in_time(farm_settings: Callable[..., Settings]) -> None:
    """One farm for each kind of hanging. All are asked at once, because each answer takes seconds."""
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        for kind, hang in HANGS.items():
            endpoint = f"http://{stack.enter_context(hang())}"
            settings = farm_settings(
                STORE_URL="s3://store/x", S3_ENDPOINT=endpoint, S3_ACCESS_KEY="key", S3_SECRET_KEY="secret-key"
            )
            urls[kind] = stack.enter_context(served(settings))
        began = time.monotonic()
        with ThreadPoolExecutor(len(urls)) as pool:
            answers = list(pool.map(lambda url: httpx.get(f"{url}/readyz", timeout=60), urls.values()))
        assert time.monotonic() - began < 8
        for kind, readiness in zip(urls, answers, strict=True):
            assert readiness.status_code == 503, kind
            assert "ENGINEFARM_S3_ENDPOINT" in readiness.json()["parts"]["store"]["detail"], kind
            assert httpx.get(f"{urls[kind]}/v1/builds", timeout=5).status_code == 200, kind


def test_a_look_up_that_nobody_waits_for_any_more_keeps_its_place() -> None:
    over = threading.Event()
    calls: uninterruptible.Uninterruptible[bool] = uninterruptible.Uninterruptible("tests", most=1)
    with pytest.raises(TimeoutError):
        calls.run(lambda: over.wait(30), 0.05)
    with pytest.raises(TimeoutError, match="have not ended"):
        calls.run(lambda: True, 0.05)
    over.set()
    assert calls.run(lambda: True, 5)
