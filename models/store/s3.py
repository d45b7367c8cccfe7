"""A store in an S3 bucket, with nothing but what every S3 server can do: multipart, ranged GET, presigned links."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from enginefarm.contract.digest import CHUNK, Digest
from enginefarm.contract.errors import IntegrityError, NotFound, StoreUnavailable
from models.store import multipart
from models.store.links import attachment, seconds
from models.store.protocol import Store, Watch, blob_digest, blob_name, end_of_range
from models.store.retries import PatientPool
from models.store.s3_errors import explained
from models.store.s3_settings import S3Settings, split_endpoint

_RESUMES = 5  # times in a row that a cut download is taken up again without a byte gained
_THERE_ALREADY = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class S3Store(Store):
    """Blobs are objects `<prefix>/blobs/sha256/ab/<hex>`.

    Args:
        patience: seconds for which a passing fault of the server is waited out.
    """

    def __init__(self, bucket: str, prefix: str, settings: S3Settings, *, patience: float = 30.0) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._where = f"{settings.endpoint.rstrip('/')}, bucket {bucket},"
        self._client = _client(settings.endpoint, settings, PatientPool(patience=patience, timeout=(5, 60)))
        self._impatient = _client(settings.endpoint, settings, PatientPool(patience=0, timeout=(2, 3)))
        # Signs and never connects: from here, the server need not be reachable by its public name.
        self._public = _client(settings.public_endpoint or settings.endpoint, settings, None)

    def prepare(self) -> None:
        with explained(self._where):
            try:
                if not self._client.bucket_exists(self._bucket):
                    self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in _THERE_ALREADY:  # somebody else prepares it too
                    raise

    def ping(self) -> None:
        with explained(self._where):
            exists = self._impatient.bucket_exists(self._bucket)
        if not exists:
            raise StoreUnavailable(f"the S3 server at {self._where} has no such bucket; create it")

    def stat(self, digest: Digest) -> int | None:
        name = self._name(digest)
        with explained(self._where):
            try:
                return self._client.stat_object(self._bucket, name).size
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise

    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        position, end, futile = start, end_of_range(start, length), 0
        if length == 0 and self.stat(digest) is None:  # there is no range of no bytes to ask for
            raise _missing(digest)
        with explained(self._where):
            while position != end:
                try:
                    for chunk in self._stream(digest, position, end):
                        position, futile = position + len(chunk), 0
                        yield chunk
                    return
                except HTTPError:  # cut on the way: go on from there, for a blob never changes
                    futile += 1
                    if futile > _RESUMES:
                        raise

    def delete(self, digest: Digest) -> None:
        name = self._name(digest)
        with explained(self._where):
            self._client.remove_object(self._bucket, name)

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        shown: dict[str, str | list[str] | tuple[str]] = {
            "response-content-disposition": attachment(filename),
            "response-content-type": "application/octet-stream",
        }
        lifetime = timedelta(seconds=seconds(expires))
        return self._public.presigned_get_object(
            self._bucket, self._name(digest), expires=lifetime, response_headers=shown
        )

    def list(self) -> Iterator[tuple[Digest, int]]:
        with explained(self._where):
            for item in self._client.list_objects(self._bucket, f"{self._prefix}blobs/sha256/", recursive=True):
                digest = blob_digest(str(item.object_name).removeprefix(self._prefix))
                if digest is not None and item.size is not None:
                    yield digest, item.size

    def abort_stale(self, age: timedelta) -> int:
        with explained(self._where):
            return multipart.abort_stale(self._client, self._bucket, self._prefix, datetime.now(UTC) - age)

    def _write_file(self, source: Path, digest: Digest, size: int, watch: Watch) -> None:
        if size <= multipart.PART:
            super()._write_file(source, digest, size, watch)
            return
        target = multipart.Target(self._client, self._bucket, self._name(digest))
        with explained(self._where):
            etag = multipart.upload(target, source, digest, size, watch)
        self._check_stored(digest, size, etag)

    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        if size > multipart.PART:
            target = multipart.Target(self._client, self._bucket, self._name(digest))
            with explained(self._where):
                etag = multipart.stream(target, chunks, size)
            self._check_stored(digest, size, etag)
            return
        data = b"".join(chunks)
        with explained(self._where):
            self._client.put_object(self._bucket, self._name(digest), io.BytesIO(data), size, part_size=multipart.PART)
        self._check_stored(digest, size, hashlib.md5(data, usedforsecurity=False).hexdigest())

    def _check_stored(self, digest: Digest, size: int, etag: str) -> None:
        with explained(self._where):
            stored = self._client.stat_object(self._bucket, self._name(digest))
        if (stored.size, stored.etag) != (size, etag):
            self._verify_or_delete(digest, size)

    def _verify_or_delete(self, digest: Digest, size: int) -> None:
        """Where the ETag says nothing (an encrypting server makes its own), read the object back."""
        try:
            self.verify(digest, size)
        except IntegrityError:
            self.delete(digest)
            raise

    def _stream(self, digest: Digest, position: int, end: int | None) -> Iterator[bytes]:
        """One download of the bytes from `position` to `end`; none if the blob has none there."""
        try:
            response = self._get(digest, position, end)
        except S3Error as error:
            match error.code:
                case "NoSuchKey":
                    raise _missing(digest) from None
                case "InvalidRange":
                    return
            raise
        with closing(response):
            yield from response.stream(CHUNK, decode_content=False)

    def _get(self, digest: Digest, position: int, end: int | None) -> BaseHTTPResponse:
        length = 0 if end is None else end - position  # 0: to the end of the blob
        response = self._client.get_object(self._bucket, self._name(digest), offset=position, length=length)
        ranged = position or length
        if ranged and not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
            response.close()
            raise StoreUnavailable(f"the S3 server at {self._where} ignored the range of a GET; it cannot be used")
        return response

    def _name(self, digest: Digest) -> str:
        return self._prefix + blob_name(digest)


def _client(endpoint: str, settings: S3Settings, pool: PatientPool | None) -> Minio:
    host, secure = split_endpoint(endpoint)
    client = Minio(
        host,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        secure=secure,
        region=settings.region,
        http_client=pool,
    )
    match settings.addressing:
        case "virtual":
            client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]  # the SDK forgot its `-> None`
        case "path":
            client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client


def _missing(digest: Digest) -> NotFound:
    return NotFound(f"blob {digest} is not in the store")
