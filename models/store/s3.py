"""A store in an S3 bucket, by portable means only: multipart, presigned links, ranged reads."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from urllib.parse import quote, urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3.exceptions import HTTPError

from enginefarm import digest as digests
from enginefarm.digest import CHUNK, Digest, read_chunks, verified
from enginefarm.errors import IntegrityError, NotFound, StoreUnavailable
from models.store.protocol import digest_of, fetch_verified, object_name, verify_all

T = TypeVar("T")

PART = 16 << 20  # bytes; one is held in memory per running upload
_ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
_TRIES = 4


@dataclass(frozen=True)
class S3Settings:
    """How to reach a bucket. `public_endpoint` is the server as clients see it, for links."""

    endpoint: str  # http://host:port
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    public_endpoint: str | None = None

    def client(self, endpoint: str) -> Minio:
        url = urlsplit(endpoint)
        # The SDK's pool would retry behind our back: retrying is done here, in one visible place.
        pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60), maxsize=16)
        return Minio(
            url.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=url.scheme == "https",
            region=self.region,
            http_client=pool,
        )


class S3Store:
    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._client = settings.client(settings.endpoint)
        self._public = settings.client(settings.public_endpoint or settings.endpoint)

    def prepare(self) -> None:
        def make() -> None:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)

        _call(make)

    def put(self, source: Path, digest: Digest, size: int) -> None:
        if self.stat(digest) == size:
            return

        def upload() -> None:
            with _Verifying(source, digest, size) as stream:
                reader = cast(BinaryIO, stream)  # the SDK asks for nothing but read()
                self._client.put_object(self._bucket, self._name(digest), reader, size, part_size=PART)

        _call(upload)
        self._confirm(digest, size)

    def put_bytes(self, data: bytes) -> Digest:
        digest = digests.of_bytes(data)
        if self.stat(digest) != len(data):
            name = self._name(digest)
            _call(lambda: self._client.put_object(self._bucket, name, io.BytesIO(data), len(data)))
            self._confirm(digest, len(data))
        return digest

    def stat(self, digest: Digest) -> int | None:
        try:
            return _call(lambda: self._client.stat_object(self._bucket, self._name(digest)).size)
        except NotFound:
            return None

    def read(self, digest: Digest, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        if length == 0:
            return
        name = self._name(digest)
        response = _call(lambda: self._client.get_object(self._bucket, name, offset=start, length=length or 0))
        try:
            with _translated():
                yield from response.stream(CHUNK)
        finally:
            response.close()
            response.release_conn()

    def fetch(self, digest: Digest, size: int, destination: Path) -> None:
        _retried(lambda: fetch_verified(self, digest, size, destination))

    def verify(self, digest: Digest, size: int) -> None:
        _retried(lambda: verify_all(self, digest, size))

    def delete(self, digest: Digest) -> None:
        _call(lambda: self._client.remove_object(self._bucket, self._name(digest)))

    def list(self) -> Iterator[tuple[Digest, int]]:
        prefix = self._prefixed("blobs/sha256/")
        with _translated():
            for found in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                yield digest_of(found.object_name or ""), found.size or 0

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
        extra: dict[str, str | list[str] | tuple[str]] = {"response-content-disposition": disposition}
        name = self._name(digest)
        return _call(
            lambda: self._public.presigned_get_object(self._bucket, name, expires=expires, extra_query_params=extra)
        )

    def ping(self) -> None:
        with _translated():
            if not self._client.bucket_exists(self._bucket):
                raise StoreUnavailable(
                    f"there is no bucket {self._bucket!r}: create it, or correct ENGINEFARM_STORE_URL"
                )

    def _confirm(self, digest: Digest, size: int) -> None:
        """What the store says it keeps. The parts' checksums were checked by the server as they arrived."""
        kept = self.stat(digest)
        if kept != size:
            self.delete(digest)
            raise IntegrityError(f"the store kept {kept} of {size} bytes of {digest}")

    def _name(self, digest: Digest) -> str:
        return self._prefixed(object_name(digest))

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


class _Verifying(io.RawIOBase):
    """A file that raises IntegrityError before its last bytes are handed out, if they are not what was promised.

    The upload is then never completed, so that nothing becomes visible under the digest's name.
    """

    def __init__(self, source: Path, digest: Digest, size: int) -> None:
        self._chunks = verified(read_chunks(source), digest, size, what=source.name)
        self._held = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Always one chunk behind what was hashed, so that the last one is checked before it leaves."""
        wanted = size if size >= 0 else 1 << 62
        while not self._ended and len(self._held) <= wanted:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
            else:
                self._held += chunk
        out, self._held = self._held[:wanted], self._held[wanted:]
        return out


def _call(operation: Callable[[], T]) -> T:
    """Do it, again if the store is away for a moment; in the farm's words if it stays away."""

    def translated() -> T:
        with _translated():
            return operation()

    return _retried(translated)


def _retried(operation: Callable[[], T]) -> T:
    """Every operation of a content-addressed store may be repeated."""
    again = retry(
        retry=retry_if_exception(lambda error: isinstance(error, StoreUnavailable)),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )
    return again(operation)()


class _translated:  # noqa: N801  # a context manager that reads as one
    """Transport faults become StoreUnavailable, absence NotFound. No text of the server is passed on: it may
    quote the request, and with it the access key."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case S3Error() if error.code in _ABSENT:
                raise NotFound(f"the store has no object {error.object_name}") from error
            case S3Error():
                raise StoreUnavailable(
                    f"the S3 server answered {error.code}{_ADVICE.get(error.code or '', '')}"
                ) from error
            case MinioException() | HTTPError():
                raise StoreUnavailable(f"the S3 server does not answer ({type(error).__name__})") from error
            case OSError() if not isinstance(error, FileNotFoundError):
                raise StoreUnavailable(f"reading or writing failed: {error.strerror}") from error


_ADVICE = {
    "SignatureDoesNotMatch": ": check ENGINEFARM_S3_SECRET_KEY",
    "InvalidAccessKeyId": ": check ENGINEFARM_S3_ACCESS_KEY",
    "AccessDenied": ": the access key may not do this in that bucket",
    "NoSuchBucket": ": create the bucket, or correct ENGINEFARM_STORE_URL",
    "RequestTimeTooSkewed": ": this machine's clock is wrong",
}
