"""`s3:` models against a real S3 server."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import urllib3
from minio import Minio

from enginefarm.contract.errors import ModelUnavailable, SourceUnavailable
from enginefarm.contract.model.reference import BucketReference
from models.sources import BucketSource, ResolvedModel
from tests.doubles.weights import weights
from tests.models.sources.models import COUNTING, OTHER_WEIGHTS, WEIGHTS, Clock, fetched, read, tiny
from tests.servers.s3 import S3Server


def client_of(server: S3Server, *, secret_key: str | None = None) -> Minio:
    pool_without_retries = urllib3.PoolManager(retries=False, timeout=10)
    return Minio(
        server.endpoint,
        server.access_key,
        secret_key or server.secret_key,
        secure=False,
        region=server.region,
        http_client=pool_without_retries,
    )


@pytest.fixture
def client(s3_server: S3Server) -> Minio:
    return client_of(s3_server)


@pytest.fixture
def bucket(client: Minio) -> Iterator[str]:
    name = f"models-{secrets.token_hex(4)}"
    client.make_bucket(name)
    yield name
    for item in client.list_objects(name, recursive=True):
        client.remove_object(name, str(item.object_name))
    client.remove_bucket(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(client: Minio, clock: Clock) -> BucketSource:
    return BucketSource(client, clock=clock)


def put(client: Minio, bucket: str, files: Mapping[str, bytes], prefix: str = "tiny") -> BucketReference:
    for name, content in files.items():
        client.put_object(bucket, f"{prefix}/{name}", io.BytesIO(content), len(content))
    return BucketReference(bucket, prefix)


def refusal_code(source: BucketSource, reference: BucketReference) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        source.resolve_model(reference)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.value) == ("/model", str(reference))
    assert problem.remedy
    return problem.code


def test_a_model_is_identified_by_its_listing(client: Minio, bucket: str, source: BucketSource) -> None:
    reference = put(client, bucket, tiny())
    resolved = source.resolve_model(reference)
    assert resolved.reference == f"s3://{bucket}/tiny"
    assert resolved.identity["source"] == "s3"
    assert tuple(file.path for file in resolved.files) == COUNTING
    assert all(file.etag for file in resolved.files)
    assert resolved.facts.vocab_size == 96
    as_json = resolved.model_dump_json()
    assert ResolvedModel.model_validate_json(as_json).model_dump_json() == as_json


def test_two_copies_are_one_model(client: Minio, bucket: str, source: BucketSource) -> None:
    first = source.resolve_model(put(client, bucket, tiny()))
    second = source.resolve_model(put(client, bucket, fetched(tiny()), prefix="team/copy"))
    assert second.identity == first.identity
    assert second.reference != first.reference


def test_a_folder_whose_name_begins_alike_is_not_part_of_the_model(
    client: Minio, bucket: str, source: BucketSource
) -> None:
    reference = put(client, bucket, tiny())
    put(client, bucket, {"pytorch_model.bin": b"a pickle", "added_tokens.json": b"{}"}, prefix="tiny-2")
    assert tuple(file.path for file in source.resolve_model(reference).files) == COUNTING


def test_a_change_is_seen_when_the_answer_is_old(
    client: Minio, bucket: str, source: BucketSource, clock: Clock
) -> None:
    reference = put(client, bucket, tiny())
    before = source.resolve_model(reference).identity
    put(client, bucket, {"model.safetensors": OTHER_WEIGHTS})
    assert source.resolve_model(reference).identity == before
    clock.now += 11
    assert source.resolve_model(reference).identity != before


def test_fetch_copies_the_selected_files_only(client: Minio, bucket: str, source: BucketSource, tmp_path: Path) -> None:
    source.fetch(source.resolve_model(put(client, bucket, tiny())), tmp_path / "out")
    assert read(tmp_path / "out") == fetched(tiny())


def _stop(_: int) -> None:
    raise KeyboardInterrupt


def test_a_fetch_ends_when_its_watcher_says_so(
    client: Minio, bucket: str, source: BucketSource, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        source.fetch(source.resolve_model(put(client, bucket, tiny())), tmp_path / "out", _stop)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_large_files_keep_the_etag_of_the_listing(
    client: Minio, bucket: str, source: BucketSource, tmp_path: Path
) -> None:
    large_file = weights(secrets.token_bytes(6 << 20))
    reference = put(client, bucket, fetched(tiny()))
    client.put_object(bucket, "tiny/model.safetensors", io.BytesIO(large_file), -1, part_size=5 << 20)
    resolved = source.resolve_model(reference)
    assert any("-2" in str(file.etag) for file in resolved.files)  # uploaded in two parts
    source.fetch(resolved, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == large_file


@pytest.mark.parametrize("weights", [OTHER_WEIGHTS, WEIGHTS + b"more", None])
def test_a_change_between_submit_and_convert_is_refused(
    client: Minio, bucket: str, source: BucketSource, tmp_path: Path, weights: bytes | None
) -> None:
    resolved = source.resolve_model(put(client, bucket, tiny()))
    if weights is None:
        client.remove_object(bucket, "tiny/model.safetensors")
    else:
        put(client, bucket, {"model.safetensors": weights})
    with pytest.raises(ModelUnavailable, match="changed between submit and convert") as caught:
        source.fetch(resolved, tmp_path / "out")
    assert caught.value.problems[0].code == "model_changed"


def test_each_missing_part_of_a_model_has_its_own_code(client: Minio, bucket: str, source: BucketSource) -> None:
    assert refusal_code(source, BucketReference(bucket, "nothing")) == "model_empty"
    assert refusal_code(source, BucketReference("no-such-bucket-here", "tiny")) == "model_not_found"
    weights = put(client, bucket, {"model.safetensors": WEIGHTS}, prefix="weights")
    assert refusal_code(source, weights) == "model_config_missing"
    files = tiny()
    del files["model.safetensors"]
    assert refusal_code(source, put(client, bucket, files, prefix="pickles")) == "model_only_pickle"
    assert (
        refusal_code(source, put(client, bucket, {**tiny(), "config.json": b"{"}, prefix="bad"))
        == "model_config_invalid"
    )


def test_wrong_credentials_are_the_farms_fault(s3_server: S3Server, bucket: str) -> None:
    secret = secrets.token_hex(16)
    with pytest.raises(SourceUnavailable, match="SignatureDoesNotMatch") as caught:
        BucketSource(client_of(s3_server, secret_key=secret)).resolve_model(BucketReference(bucket, "tiny"))
    assert secret not in str(caught.value)


def test_a_server_that_cannot_be_reached_is_an_outage() -> None:
    pool_without_retries = urllib3.PoolManager(retries=False, timeout=5)
    client = Minio(
        "127.0.0.1:9", "key", "secretsecret", secure=False, region="us-east-1", http_client=pool_without_retries
    )
    with pytest.raises(SourceUnavailable, match=r"cannot be reached .*ENGINEFARM_MODELS_S3_ENDPOINT.*try again later"):
        BucketSource(client).resolve_model(BucketReference("bucket", "tiny"))
