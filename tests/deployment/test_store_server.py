"""The S3 server of compose.yaml, run for real: the API's and the worker's accounts do their work, and no more."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from botocore.exceptions import ClientError
from minio import Minio
from minio.error import S3Error

from enginefarm.contract.digest import of_bytes, of_file
from enginefarm.contract.errors import IntegrityError, StoreUnavailable
from models.store import S3Settings, S3Store
from models.store.multipart import PART_SIZE
from models.store.s3_clients import open_botocore
from models.store.s3_credentials import S3Credentials
from tests.deployment.compose import CHECKOUT, filled_example, interpolated
from tests.models.store.blobs import put_bytes
from tests.models.store.test_s3_servers import use_every_method
from tests.models.store.test_store import make
from tests.servers.s3 import SeaweedFS

POLICIES = CHECKOUT / "docker" / "store"
DATA = b"bytes of an engine"
NAME = of_bytes(DATA)


@pytest.fixture
def api(store_server: SeaweedFS, request: pytest.FixtureRequest) -> S3Store:
    return opened(store_server, store_server.access_key, store_server.secret_key, request.node.name)


@pytest.fixture
def worker(store_server: SeaweedFS, request: pytest.FixtureRequest) -> S3Store:
    return opened(store_server, *store_server.worker, request.node.name)


def opened(server: SeaweedFS, access_key: str, secret_key: str, prefix: str) -> S3Store:
    settings = S3Settings(f"http://{server.endpoint}", access_key, secret_key)
    return S3Store(server.bucket, prefix, settings, patience=1)


def test_compose_ships_the_policies_as_they_are_in_their_files() -> None:
    accounts = json.loads(interpolated(filled_example())["configs"]["store-accounts"]["content"])
    shipped = {policy["name"]: json.loads(policy["content"]) for policy in accounts["policies"]}
    files = {path.name.removesuffix("-policy.json"): json.loads(path.read_text()) for path in POLICIES.glob("*.json")}
    assert shipped == files
    assert [identity["policyNames"] for identity in accounts["identities"]] == [["api"], ["worker"]]
    assert not any("actions" in identity for identity in accounts["identities"]), "rights come from the policies alone"


def test_the_api_uses_every_method_of_the_store(api: S3Store, tmp_path: Path) -> None:
    api.prepare()  # as the migrations do, whose account may not create the bucket that exists
    use_every_method(api, tmp_path)


def test_a_worker_stores_and_fetches_and_does_not_delete(worker: S3Store, tmp_path: Path) -> None:
    large = make(tmp_path / "large", PART_SIZE + 1000)
    worker.ping()
    assert worker.stat(NAME) is None
    put_bytes(worker, DATA)
    worker.put(large, of_file(large), PART_SIZE + 1000)
    worker.fetch(of_file(large), PART_SIZE + 1000, tmp_path / "copy")
    for name in (NAME, of_file(large)):
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            worker.delete(name)
        assert worker.stat(name) is not None


def test_the_server_compares_each_part_with_its_crc32_so_no_md5_is_computed(
    worker: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = make(tmp_path / "large", PART_SIZE + 1000)
    monkeypatch.setattr("models.store.multipart._md5", lambda _: pytest.fail("an MD5 was computed"))
    monkeypatch.setattr(S3Store, "verify", lambda *_: pytest.fail("the blob was read back"))
    worker.put(large, of_file(large), PART_SIZE + 1000)
    monkeypatch.setattr("models.store.multipart.zlib.crc32", lambda _: 7)
    with pytest.raises(StoreUnavailable, match=r"BadDigest|InvalidRequest|InvalidDigest"):
        worker.put(large, of_file(large), PART_SIZE + 1000, anew=True)


def test_a_worker_that_stored_wrong_bytes_makes_the_next_upload_write_again(worker: S3Store, api: S3Store) -> None:
    put_bytes(worker, DATA)
    client = Minio(
        worker._settings.endpoint.removeprefix("http://"), worker._settings.access_key, worker._settings.secret_key,
        secure=False, region="us-east-1",
    )  # fmt: skip
    client.put_object(worker._bucket, worker._name(NAME), io.BytesIO(b"X" * len(DATA)), len(DATA))
    with pytest.raises(IntegrityError):
        worker._check_stored(NAME, len(DATA), etag="of the bytes that were sent")
    put_bytes(worker, DATA)
    api.verify(NAME, len(DATA))


@pytest.mark.parametrize("account", ["api", "worker"])
def test_an_account_stays_in_its_bucket(store_server: SeaweedFS, request: pytest.FixtureRequest, account: str) -> None:
    store = request.getfixturevalue(account)
    put_bytes(store, DATA)
    credentials = S3Credentials(store._settings.access_key, store._settings.secret_key)
    client = open_botocore(store._settings, credentials, connections=1)
    object_name, bucket = store._name(NAME), store_server.bucket
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everybody]})
    expiry = {"ID": "a", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    attacks: dict[str, dict[str, Any]] = {
        "create_bucket": {"Bucket": "another"},
        "delete_bucket": {"Bucket": bucket},
        "list_objects_v2": {"Bucket": "another"},
        "put_bucket_policy": {"Bucket": bucket, "Policy": policy},
        "put_bucket_acl": {"Bucket": bucket, "ACL": "public-read-write"},
        "put_bucket_lifecycle_configuration": {"Bucket": bucket, "LifecycleConfiguration": {"Rules": [expiry]}},
        "put_object_acl": {"Bucket": bucket, "Key": object_name, "ACL": "public-read"},
        "put_object_tagging": {"Bucket": bucket, "Key": object_name, "Tagging": {"TagSet": []}},
    }
    for operation, arguments in attacks.items():
        with pytest.raises(ClientError, match=r"AccessDenied") as refused:
            getattr(client, operation)(**arguments)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, operation
    if account == "worker":
        removed = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": object_name}]})
        assert [error["Code"] for error in removed["Errors"]] == ["AccessDenied"]
    assert store.stat(NAME) == len(DATA)


def test_nobody_reads_without_an_account(store_server: SeaweedFS, api: S3Store) -> None:
    put_bytes(api, DATA)
    link = api.link(NAME, filename="a", expires=timedelta(minutes=1))
    assert httpx.get(link).content == DATA
    assert httpx.get(link.split("?")[0]).status_code == 403
    for path in ("/", f"/{store_server.bucket}", "/another"):
        assert httpx.get(f"http://{store_server.endpoint}{path}").status_code == 403
    stranger = Minio(store_server.endpoint, "administrator", "administrator", secure=False, region="us-east-1")
    with pytest.raises(S3Error, match="InvalidAccessKeyId"):
        stranger.list_buckets()


def test_the_port_of_its_own_parts_makes_nobody_an_administrator(store_server: SeaweedFS) -> None:
    """The attack that the internal key stops: without the key SeaweedFS 4.48 accepts the new identity."""
    method = "/messaging_pb.SeaweedS3IamCache/PutIdentity"
    with grpc.insecure_channel(store_server.grpc_endpoint) as channel:
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as refused:
            call(_identity_with_every_right("evil", "evil-secret"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    evil = Minio(store_server.endpoint, "evil", "evil-secret", secure=False, region="us-east-1")
    with pytest.raises(S3Error, match="InvalidAccessKeyId"):
        evil.list_buckets()


def _identity_with_every_right(access_key: str, secret_key: str) -> bytes:
    """A PutIdentityRequest in protobuf: {identity: {name, credentials: {access_key, secret_key}, actions: Admin}}."""
    credentials = _field(1, access_key.encode()) + _field(2, secret_key.encode())
    return _field(1, _field(1, access_key.encode()) + _field(2, credentials) + _field(3, b"Admin"))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content
