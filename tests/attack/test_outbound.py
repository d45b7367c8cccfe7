"""Servers that are asked turn hostile: a model hub and an S3 server to the farm, a farm to its client.

They send bombs, endless answers and trickles, and lead to addresses inside the operator's network.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.contract.errors import FarmError, IntegrityError, SourceUnavailable, StoreUnavailable
from enginefarm.contract.model.reference import BucketReference, HubReference
from models.outbound import limited_answers
from models.sources import BucketSource, HubSource, bucket_source
from models.sources.hub import files as hub_files
from models.store import S3Settings
from models.store.multipart import PART_SIZE
from models.store.retries import RetryingPool
from models.store.s3 import S3Store
from models.store.s3_clients import open_minio
from models.store.s3_credentials import S3Credentials
from tests.attack import ROUNDS
from tests.attack.memory import peak_below
from tests.models.sources.models import tiny
from tests.servers.hostile import Answer as RawAnswer
from tests.servers.hostile import HostileServer, RawRequest, endless, gzip_bomb, head, redirect, trickle, whole
from tests.servers.hub import Hub

MODEL = HubReference("org/tiny")
BUCKET = BucketReference("models", "tiny")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "s" * 32
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def listing(*entries: dict[str, object]) -> bytes:
    return json.dumps({"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": entries}).encode()


def test_a_compressed_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip_bomb(128 * ROUNDS)
    answers = {
        "listing": lambda _: whole(bomb, Content_Encoding="gzip", Content_Type="application/json"),
        "error": lambda _: whole(bomb, "500 Broken", Content_Encoding="gzip", Content_Type="application/json"),
    }
    texts = {"listing": "compressed its answer", "error": "answered with status 500"}
    for name, answer in answers.items():
        with HostileServer(answer) as hub, peak_below(16), pytest.raises(SourceUnavailable, match=texts[name]):
            HubSource(hub.url).resolve_model(MODEL)
        assert hub.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", ["200 OK", "500 Broken"])
def test_an_endless_answer_is_cut(status: str) -> None:
    with (
        HostileServer(lambda _: endless(b'{"siblings": [', b" " * (1 << 20), status)) as hub,
        peak_below(64),
        pytest.raises(SourceUnavailable, match=r"sent more than the 16777216 bytes|answered with status 500"),
    ):
        HubSource(hub.url).resolve_model(MODEL)
    assert hub.sent < 40 << 20


def test_an_answer_that_announces_too_much_is_not_read() -> None:
    def answer(_: RawRequest) -> Iterator[bytes]:
        yield head(Content_Length=1 << 40)

    with HostileServer(answer) as hub, pytest.raises(SourceUnavailable, match="sent more than"):
        HubSource(hub.url).resolve_model(MODEL)


def test_a_listing_with_too_many_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_files, "MAX_LISTED_FILES", 1000)
    entries = [{"rfilename": f"{number}.json", "size": 1} for number in range(1001)]
    with (
        HostileServer(lambda _: whole(listing(*entries))) as hub,
        peak_below(128),
        pytest.raises(SourceUnavailable, match="lists more than 1000 files"),
    ):
        HubSource(hub.url).resolve_model(MODEL)


def test_a_file_ends_at_the_size_that_the_hub_lists(tmp_path: Path) -> None:
    with Hub() as honest:
        honest.push("org/tiny", tiny())
        model = HubSource(honest.url).resolve_model(MODEL)

    def answer(request: RawRequest) -> Iterable[bytes]:
        fields = {"ETag": '"x"', "X_Repo_Commit": model.identity["commit"]}
        if request.method == "HEAD":
            return [head(Content_Length=10, **fields)]
        return endless(b"x", b"x" * (1 << 20), **fields)

    with (
        HostileServer(answer) as hub,
        peak_below(64),
        pytest.raises(IntegrityError, match=r"has more than the \d+ bytes of the hub's listing"),
    ):
        HubSource(hub.url).fetch(model, tmp_path / "model")
    assert hub.sent < 64 << 20
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1 << 20


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_answer_that_trickles_ends_in_time(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_files, "TOTAL_SECONDS", 1.0)

    def answer(_: RawRequest) -> Iterator[bytes]:
        content = head(Content_Length=1 << 20)
        if part == "body":
            yield content
            content = b" " * (1 << 20)
        yield from trickle(content)

    started = time.monotonic()
    with HostileServer(answer) as hub, pytest.raises(SourceUnavailable, match="did not complete its answer within 1 s"):
        HubSource(hub.url).resolve_model(MODEL)
    assert time.monotonic() - started < 3


INSIDE = ("http://169.254.169.254/latest/meta-data", "http://[::ffff:169.254.169.254]/x", "http://10.0.0.1/x",
          "http://[::1]/x", "http://[64:ff9b::7f00:1]/x", "http://0.0.0.0/x")  # fmt: skip


@pytest.mark.parametrize("location", INSIDE)
def test_a_redirect_to_an_address_inside_is_not_followed(location: str) -> None:
    started = time.monotonic()
    with (
        HostileServer(lambda _: redirect(location)) as hub,
        pytest.raises(SourceUnavailable, match="not a public address; ENGINEFARM_HF_REDIRECT_NETWORKS"),
    ):
        HubSource(hub.url).resolve_model(MODEL)
    assert time.monotonic() - started < 2  # nobody waited for a connection


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1"])
def test_a_redirect_to_a_service_of_this_machine_does_not_reach_it(host: str, tmp_path: Path) -> None:
    with Hub() as honest:
        honest.push("org/tiny", tiny())
        model = HubSource(honest.url).resolve_model(MODEL)
    with HostileServer(lambda _: whole(b"secret of the machine")) as inside:
        secret_url = f"http://{host}:{inside.address.rpartition(':')[2]}/secret"

        def answer(_: RawRequest) -> Iterable[bytes]:
            fields = {"ETag": '"x"', "X_Repo_Commit": model.identity["commit"]}
            return [head("302 Found", Location=secret_url, Content_Length=0, **fields)]

        with HostileServer(answer) as hub:
            with pytest.raises(SourceUnavailable, match="not a public address"):
                HubSource(hub.url).resolve_model(MODEL)
            with pytest.raises(SourceUnavailable, match="not a public address"):
                HubSource(hub.url, TOKEN).fetch(model, tmp_path / "model")
        assert inside.requests == []


def test_a_redirect_loop_ends() -> None:
    with (
        HostileServer(lambda _: redirect("/again")) as hub,
        pytest.raises(SourceUnavailable, match="redirects again and again"),
    ):
        HubSource(hub.url).resolve_model(MODEL)
    assert len(hub.requests) < 10


def test_a_store_that_the_operator_allows_serves_files_and_never_sees_the_token(tmp_path: Path) -> None:
    files = tiny()
    with HostileServer(lambda request: whole(files[request.target.rpartition("/")[2]])) as cdn:

        def answer(request: RawRequest) -> Iterable[bytes]:
            if request.target.startswith("/api/"):
                entries = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                return whole(listing(*entries))
            name = request.target.rpartition("/")[2]
            fields = {"ETag": f'"{name}"', "X_Repo_Commit": COMMIT, "X_Linked_Size": len(files[name])}
            return [head("302 Found", Location=f"{cdn.url}/signed/{name}", Content_Length=0, **fields)]

        with HostileServer(answer) as hub:
            source = HubSource(hub.url, TOKEN, redirect_networks=LOOPBACK)
            model = source.resolve_model(MODEL)
            source.fetch(model, tmp_path / "model")
    for file in model.files:
        assert (tmp_path / "model" / file.path).read_bytes() == files[file.path]
    assert {request.headers.get("authorization") for request in hub.requests} == {f"Bearer {TOKEN}"}
    assert cdn.requests
    assert {request.headers.get("authorization") for request in cdn.requests} == {None}


def endless_pages(request: RawRequest) -> Iterable[bytes]:
    """Pages that lead to each other; the hundredth fails, so that a client that follows them ends, too."""
    number = int(request.target.rpartition("cursor=")[2]) if "cursor=" in request.target else 0
    if number == 100:
        return whole(b"", "500 Broken")
    return whole(b'{"items": [], "next_cursor": "%d"}' % (number + 1))


FARM_ANSWERS: dict[str, tuple[RawAnswer, str]] = {
    "bomb": (lambda _: whole(gzip_bomb(), Content_Encoding="gzip"), "sent more than 16777216 bytes"),
    "bomb in a bomb": (lambda _: whole(gzip_bomb(), Content_Encoding="gzip, gzip"), "was not asked for"),
    "endless": (lambda _: endless(b'{"items": [', b" " * (1 << 20)), "sent more than 16777216 bytes"),
    "endless refusal": (lambda _: endless(b"<html>", b"x" * (1 << 20), "502 Bad"), "answered 502 Bad Gateway"),
    "compressed refusal": (lambda _: whole(gzip_bomb(), "502 Bad", Content_Encoding="br"), "answered 502 Bad Gateway"),
    "endless pages": (endless_pages, "page after page without coming forward"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "text"), FARM_ANSWERS.values(), ids=list(FARM_ANSWERS))
def test_a_farm_cannot_fill_the_memory_of_its_client(answer: RawAnswer, text: str) -> None:
    with HostileServer(answer) as server, Farm(server.url, patience=0) as farm, peak_below(64):
        with pytest.raises(FarmError, match=text) as error:
            list(farm.engines())
        assert "\n" not in error.value.detail
    assert server.sent < 48 << 20


def test_a_log_that_never_ends_its_line_takes_little_memory() -> None:
    with HostileServer(lambda _: endless(b"x", b"x" * (1 << 20))) as server, Farm(server.url) as farm, peak_below(16):
        pieces = list(itertools.islice(farm.logs("b1"), 200))
    assert {len(piece) for piece in pieces} == {1 << 16}


def test_a_log_that_a_proxy_compressed_is_refused() -> None:
    with (
        HostileServer(lambda _: whole(gzip_bomb(), Content_Encoding="gzip")) as server,
        Farm(server.url, patience=0) as farm,
        peak_below(16),
        pytest.raises(FarmError, match="the log comes compressed"),
    ):
        list(farm.logs("b1"))


def test_a_farm_that_trickles_its_answer_is_left() -> None:
    def answer(_: RawRequest) -> Iterator[bytes]:
        yield head(Content_Length=1 << 20)
        yield from trickle(b" " * (1 << 20), pause=0.05)

    started = time.monotonic()
    with (
        HostileServer(answer) as server,
        Farm(server.url, timeout=0.1, patience=0) as farm,
        pytest.raises(FarmError, match="did not complete its answer within 1 s"),
    ):
        farm.workers()
    assert time.monotonic() - started < 3


def test_a_redirect_with_an_endless_body_is_followed_at_once() -> None:
    def answer(request: RawRequest) -> Iterable[bytes]:
        if request.target.endswith("/logs"):
            return endless(b"x", b"x" * (1 << 20), "302 Found", Location="/log")
        return whole(b"the log\n")

    with HostileServer(answer) as server, Farm(server.url) as farm, peak_below(16):
        assert list(farm.logs("b1")) == ["the log"]
    assert server.sent < 16 << 20


def s3_page(*names: str, token: str = "") -> bytes:
    contents = "".join(
        f'<Contents><Key>{name}</Key><Size>1</Size><ETag>"a"</ETag><LastModified>2026-01-01T00:00:00.000Z'
        "</LastModified></Contents>"
        for name in names
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult><Name>models</Name>{more}{contents}</ListBucketResult>".encode()


def an_endless_listing() -> RawAnswer:
    pages = itertools.count()

    def answer(_: RawRequest) -> Iterable[bytes]:
        number = next(pages)
        return whole(s3_page(*(f"tiny/{number}-{index}" for index in range(100)), token=f"page-{number}"))

    return answer


S3_ANSWERS: dict[str, tuple[Callable[[], RawAnswer], str]] = {
    "bomb": (lambda: lambda _: whole(gzip_bomb(), Content_Encoding="gzip"), "compressed its answer"),
    "endless": (lambda: lambda _: endless(b"<ListBucketResult>", b" " * (1 << 20)), "sent more than the 4194304 bytes"),
    "endless error": (lambda: lambda _: endless(b"<Error>", b" " * (1 << 20), "403 No"), "sent more than"),
    "endless listing": (an_endless_listing, "more than 300 objects|again and again"),
}


@pytest.mark.parametrize(("attack", "text"), S3_ANSWERS.values(), ids=list(S3_ANSWERS))
def test_an_s3_server_cannot_fill_the_memory(
    attack: Callable[[], RawAnswer], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_source, "MAX_LISTED_OBJECTS", 300)
    gzip_bomb()
    with HostileServer(attack()) as server, peak_below(48), pytest.raises(SourceUnavailable, match=text):
        models_in(server).resolve_model(BUCKET)
    with HostileServer(attack()) as server, peak_below(48), pytest.raises(StoreUnavailable, match=text):
        list(store_in(server).list())
    assert server.sent < 32 << 20


def test_the_answers_to_multipart_uploads_are_limited(tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes(PART_SIZE + 1))
    for answer in (S3_ANSWERS["bomb"][0](), S3_ANSWERS["endless"][0]()):

        def after_head(request: RawRequest, answer: RawAnswer = answer) -> Iterable[bytes]:
            return [head("404 None", Content_Length=0)] if request.method == "HEAD" else answer(request)

        with (
            HostileServer(after_head) as server,
            peak_below(48),
            pytest.raises(StoreUnavailable, match=r"sent more|compressed its"),
        ):
            store_in(server).put(source, digest.of_file(source), PART_SIZE + 1)


@pytest.mark.parametrize("attack", ["no length", "chunks beside a length"])
def test_an_object_of_a_models_server_ends_at_its_size(attack: str) -> None:
    length: dict[str, Any] = {"Content_Length": 1} if attack == "chunks beside a length" else {}

    def answer(request: RawRequest) -> Iterable[bytes]:
        if "list-type" in request.target:
            return whole(s3_page("tiny/config.json", "tiny/model.safetensors"))
        return endless(b"{", b" " * (1 << 20), ETag='"a"', **length)

    with HostileServer(answer) as server, peak_below(32), pytest.raises(SourceUnavailable, match="without its length"):
        models_in(server).resolve_model(BUCKET)


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_s3_server_that_trickles_is_left(part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limited_answers, "ANSWER_SECONDS", 0.5)

    def answer(_: RawRequest) -> Iterator[bytes]:
        content = head(Content_Length=1 << 20)
        if part == "body":
            yield content
            content = b" " * (1 << 20)
        yield from trickle(content)

    source = tmp_path / "large"
    source.write_bytes(bytes(PART_SIZE + 1))
    with HostileServer(answer) as server:
        started = time.monotonic()
        with pytest.raises(SourceUnavailable, match="did not answer"):
            models_in(server).resolve_model(BUCKET)
        with pytest.raises(StoreUnavailable, match=r"in time|cannot be reached"):
            store_in(server).abort_stale(timedelta())
        assert time.monotonic() - started < 5


def s3_of(server: HostileServer) -> S3Settings:
    return S3Settings(server.url, "access-key", "secret-key", addressing="path")


def models_in(server: HostileServer) -> BucketSource:
    settings = s3_of(server)
    credentials = S3Credentials(settings.access_key, settings.secret_key)
    return BucketSource(open_minio(settings, credentials, RetryingPool(patience=0, timeout=(2, 5))))


def store_in(server: HostileServer) -> S3Store:
    return S3Store("store", "", s3_of(server), patience=0)
