"""S3 servers as they are in the field: weak ETags, web consoles, other regions, faults that pass and that stay."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enginefarm.contract.errors import FarmError, ModelUnavailable, SourceUnavailable, StoreUnavailable
from enginefarm.contract.model.reference import BucketReference, HubReference
from models.sources import BucketSource, HubSource, bucket_source
from models.sources.hub import model_source
from models.store import S3Settings
from models.store.retries import RetryingPool
from models.store.s3 import S3Store
from models.store.s3_clients import open_minio
from models.store.s3_credentials import S3Credentials
from tests.models.sources.models import fetched, read, tiny
from tests.models.sources.test_bucket_source import client_of, put
from tests.servers.hostile import HostileServer, RawRequest, trickle, whole
from tests.servers.proxy import Proxy
from tests.servers.s3 import Swift

MODEL = BucketReference("models", "tiny")
ACCESS_KEY = "the-access-key-of-the-farm"


@dataclass(frozen=True)
class Answer:
    """What a server answers to everything, what an error says of it, and whether the fault lasts."""

    status: str
    body: bytes
    text: str
    lasting: bool
    headers: dict[str, str] | None = None

    def __call__(self, request: RawRequest) -> Iterable[bytes]:
        headers: dict[str, Any] = self.headers or {"Content_Type": "application/xml"}
        body = b"" if request.method == "HEAD" else self.body
        return whole(body, self.status, **headers)


def error(code: str, more: str = "") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{ACCESS_KEY}</Message>{more}</Error>".encode()


HTML = {"Content_Type": "text/html"}
NOT_S3 = "must be the S3 API itself, not a web console"
REGION = {"Content_Type": "application/xml", "x_amz_bucket_region": "eu-west-1"}
ANSWERS = {
    "console": Answer("200 OK", b"\n<!DOCTYPE html><html></html>", f"an HTML page instead of S3.*{NOT_S3}", True, HTML),
    "console without a type": Answer("200 OK", b"<html><body/></html>", "an HTML page instead", True),
    "JSON": Answer("200 OK", b'{"ok": true}', f"something that is no XML.*{NOT_S3}", True),
    "nothing": Answer("200 OK", b"", f"nothing instead of S3.*{NOT_S3}", True),
    "other XML": Answer("200 OK", b"<rss><channel/></rss>", "XML that is no listing instead", True),
    "cut XML": Answer("200 OK", b"<ListBucketResult><Na", NOT_S3, True),
    "HTML refusal": Answer("403 No", b"<html>", NOT_S3, True, HTML),
    "proxy without a server": Answer("502 Bad Gateway", b"<html>", "answered HTTP 502.*try again later", False, HTML),
    "error of another type": Answer("403 No", error("AllAccessDisabled"), "ask the provider", True,
                                    {"Content_Type": "text/xml"}),
    "error in Latin-1": Answer("403 No", b"<Error><Code>\xe9</Code></Error>", "in no known encoding", True),
    "region of a signature": Answer("400 Bad", error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
                                    "in the region eu-west-1: set ENGINEFARM_MODELS_S3_REGION=eu-west-1$", True),
    "region that is a trap": Answer("400 Bad", error("AuthorizationHeaderMalformed", "<Region>`rm`</Region>"),
                                    "check ENGINEFARM_MODELS_S3_REGION, and that ENGINEFARM_MODELS_S3_ENDPOINT", True),
    "moved": Answer("301 Moved", error("PermanentRedirect"), "region eu-west-1.*MODELS_S3_ENDPOINT to the endp", True,
                    REGION),
    "moved without a body": Answer("301 Moved", b"", "region eu-west-1.*MODELS_S3_ENDPOINT to the endpoint", True,
                                   REGION),
    "moves": Answer("307 Temporary", error("TemporaryRedirect"), "is being moved: set ENGINEFARM_MODELS_S3_END", False),
    "moves without a body": Answer("307 Temporary", b"", "is being moved: set ENGINEFARM_MODELS_S3_ENDP", False),
    "to https": Answer("301 Moved", b"<html>", "write https:// in ENGINEFARM_MODELS_S3_ENDPOINT", True,
                       {**HTML, "Location": "https://127.0.0.1/"}),
    "clock": Answer("403 No", error("RequestTimeTooSkewed"), "set the clock of this machine or of the server$", True),
    "keys": Answer("403 No", error("InvalidAccessKeyId"), "check ENGINEFARM_MODELS_S3_ACCESS_KEY and", True),
    "signature": Answer("403 No", error("SignatureDoesNotMatch"), "check ENGINEFARM_MODELS_S3_ACCESS_KEY and", True),
    "expired": Answer("400 Bad", error("ExpiredToken"), "check ENGINEFARM_MODELS_S3_ACCESS_KEY and", True),
    "slow down": Answer("503 Slow", error("SlowDown"), "asks for fewer requests; try again later$", False),
    "overloaded": Answer("500 Broken", error("InternalError"), "look at its log for why; try again later$", False),
    "too many": Answer("429 Many", error("TooManyRequests"), "asks for fewer requests; try again later$", False),
    "unknown": Answer("418 Tea", error("Teapot"), "answered Teapot; look at its log for why$", True),
}  # fmt: skip


def settings_of(server: HostileServer) -> S3Settings:
    return S3Settings(server.url, ACCESS_KEY, "secret-key", addressing="path")


def models_in(server: HostileServer) -> BucketSource:
    settings = settings_of(server)
    credentials = S3Credentials(settings.access_key, settings.secret_key)
    client = open_minio(settings, credentials, RetryingPool(patience=0, timeout=(2, 5)))
    return BucketSource(client, server=server.address)


def refused(caught: pytest.ExceptionInfo[FarmError], answer: Answer, server: HostileServer) -> None:
    detail = caught.value.detail
    assert re.search(answer.text, detail), detail
    assert caught.value.lasting is answer.lasting
    assert ("try again later" in detail) is not answer.lasting
    assert server.address in detail
    assert "\n" not in detail
    assert ACCESS_KEY not in detail


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_of_a_models_server_is_explained_by_its_settings(answer: Answer) -> None:
    with HostileServer(answer) as server:
        with pytest.raises(SourceUnavailable) as caught:
            models_in(server).resolve_model(MODEL)
        refused(caught, answer, server)


@pytest.mark.parametrize("name", ["NoSuchBucket", "InvalidBucketName", "AccessDenied"])
def test_a_bucket_that_the_farm_cannot_read_is_the_callers_to_mend(name: str) -> None:
    answer = Answer("404 None", error(name), "", lasting=False)
    with HostileServer(answer) as server, pytest.raises(ModelUnavailable, match="models"):
        models_in(server).resolve_model(MODEL)


@pytest.mark.parametrize("name", ["console", "JSON", "nothing", "region of a signature", "moved", "slow down"])
def test_an_answer_of_the_stores_server_is_explained_too(name: str) -> None:
    answer = ANSWERS[name]
    with HostileServer(answer) as server:
        store = S3Store("store", "", settings_of(server), patience=0)
        with pytest.raises(StoreUnavailable) as caught:
            list(store.list())
    assert caught.value.lasting is answer.lasting
    assert re.search(answer.text.replace("MODELS_S3", "S3").removesuffix("$"), caught.value.detail)


def test_a_web_console_is_no_ready_store_and_damages_no_blob() -> None:
    digest = "sha256:" + "0" * 64
    with HostileServer(ANSWERS["console"]) as server:
        store = S3Store("store", "", settings_of(server), patience=0)
        for use in (store.ping, lambda: store.stat(digest), lambda: b"".join(store.read(digest))):
            with pytest.raises(StoreUnavailable, match="an HTML page instead of S3"):
                use()


@pytest.mark.parametrize("mark", [b'W/"%s"', b"%s", b"W/%s"], ids=["weak", "without quotes", "weak without quotes"])
def test_a_proxy_that_rewrites_etags_changes_no_model(s3_server: Swift, mark: bytes, tmp_path: Path) -> None:
    def rewrite(piece: bytes) -> bytes:
        return re.sub(rb'(?i)(\r\netag: )"?([0-9a-f-]+)"?', lambda match: match[1] + mark % match[2], piece)

    bucket = f"models-{secrets.token_hex(4)}"
    client = client_of(s3_server)
    client.make_bucket(bucket)
    reference = put(client, bucket, tiny())
    with Proxy(s3_server.port, alter_answer=rewrite) as proxy:
        settings = S3Settings(f"http://127.0.0.1:{proxy.port}", s3_server.access_key, s3_server.secret_key)
        credentials = S3Credentials(settings.access_key, settings.secret_key)
        source = BucketSource(open_minio(settings, credentials, RetryingPool(patience=0, timeout=(5, 10))))
        model = source.resolve_model(reference)
        assert model.identity == BucketSource(client).resolve_model(reference).identity
        source.fetch(model, tmp_path / "model")
    assert read(tmp_path / "model") == fetched(tiny())


def test_a_proxy_that_takes_etags_away_is_named_as_the_cause(s3_server: Swift) -> None:
    bucket = f"models-{secrets.token_hex(4)}"
    client = client_of(s3_server)
    client.make_bucket(bucket)
    reference = put(client, bucket, tiny())
    with Proxy(s3_server.port, alter_answer=lambda piece: re.sub(rb"(?i)\r\netag: [^\r]*", b"", piece)) as proxy:
        settings = S3Settings(f"http://127.0.0.1:{proxy.port}", s3_server.access_key, s3_server.secret_key)
        credentials = S3Credentials(settings.access_key, settings.secret_key)
        source = BucketSource(open_minio(settings, credentials, RetryingPool(patience=0, timeout=(5, 10))))
        with pytest.raises(SourceUnavailable, match="without the ETag that it lists; check any proxy") as caught:
            source.resolve_model(reference)
    assert caught.value.lasting


def page(number: int) -> bytes:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{number}</NextContinuationToken>"
    return f"<ListBucketResult><Name>models</Name>{more}</ListBucketResult>".encode()


def test_answers_that_each_come_in_time_end_together_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_source, "RESOLVE_SECONDS", 1.0)
    monkeypatch.setattr(model_source, "RESOLVE_SECONDS", 1.0)

    pages = iter(range(20))

    def slow_page(_: RawRequest) -> Iterable[bytes]:
        time.sleep(0.3)
        return whole(page(next(pages)), Content_Type="application/xml")

    def slow_head(_: RawRequest) -> Iterable[bytes]:
        return trickle(b"HTTP/1.1 200 OK\r\nDate: " + b"x" * 60, pause=0.1)

    began = time.monotonic()
    with HostileServer(slow_page) as server, pytest.raises(SourceUnavailable, match=r"MODELS_S3_ENDPOINT.*later"):
        models_in(server).resolve_model(MODEL)
    with HostileServer(slow_head) as server, pytest.raises(SourceUnavailable, match=r"ENGINEFARM_HF_ENDPOINT.*later"):
        HubSource(server.url).resolve_model(HubReference("org/tiny"))
    assert time.monotonic() - began < 6
