"""A store in an S3 bucket. It uses only what every S3 server offers: multipart uploads, ranged GET, presigned links."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from minio.error import S3Error
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from enginefarm.contract.digest import CHUNK, Digest, Watch, ignore_progress
from enginefarm.contract.errors import IntegrityError, NotFound, StoreUnavailable
from models.outbound import time_limit
from models.outbound.limited_answers import NotS3
from models.outbound.s3_answers import bare_etag, listed_objects
from models.store.links import attachment, seconds
from models.store.multipart import CONNECTIONS, PART_SIZE, MultipartUploads
from models.store.protocol import Store, blob_digest, blob_name, end_of_range
from models.store.retries import RetryingPool, retrying
from models.store.s3_clients import open_botocore, open_minio
from models.store.s3_credentials import S3Credentials
from models.store.s3_errors import translate_errors
from models.store.s3_settings import S3Settings

_MAX_FUTILE_TRIES = 6  # of a download in a row without a new byte; the server or the network is then broken
_PING_SECONDS = 4.0
_BUCKET_EXISTS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class S3Store(Store):
    """Blobs are objects `<prefix>/blobs/sha256/ab/<hex>`.

    Args:
        patience: seconds for which a request that failed for a transient reason is retried.

    Raises:
        ValueError: `settings` has no keys, and the standard chain finds none.
    """

    def __init__(self, bucket: str, prefix: str, settings: S3Settings, *, patience: float = 30.0) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._server = f"{settings.endpoint.rstrip('/')}, bucket {bucket},"
        self._settings = settings
        self._patience = patience
        self._credentials = S3Credentials(settings.access_key, settings.secret_key)
        self._client = open_minio(settings, self._credentials, RetryingPool(patience=patience, timeout=(5, 60)))
        # `ping` is part of readiness probes, which give up after seconds.
        self._probe = open_minio(settings, self._credentials, RetryingPool(patience=0, timeout=(2, 3)))
        # Presigns links and never connects: the farm need not reach the server by its public name.
        self._signer = open_minio(settings, self._credentials, None, endpoint=settings.public_endpoint)
        self._speaks_s3 = False  # until an answer proves it
        self._uploads: MultipartUploads | None = None
        self._uploads_lock = threading.Lock()

    def put(
        self, source: Path, digest: Digest, size: int, watch: Watch = ignore_progress, *, anew: bool = False
    ) -> None:
        """See `Store.put`. The upload of a large file continues after a crash; a stream could not be sent again."""
        if size <= PART_SIZE:
            super().put(source, digest, size, watch, anew=anew)
        elif anew or self.stat(digest) != size:
            with translate_errors(self._server):
                etag = self.uploads().upload_file(self._name(digest), source, digest, size, watch)
            self._check_stored(digest, size, etag)

    def prepare(self) -> None:
        with translate_errors(self._server):
            try:
                if not self._client.bucket_exists(self._bucket):
                    self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in _BUCKET_EXISTS:  # another process prepares the store at the same time
                    raise

    def ping(self) -> None:
        with translate_errors(self._server), time_limit.within(_PING_SECONDS):
            exists = self._probe.bucket_exists(self._bucket)
            if exists and not self._speaks_s3:
                # A web console answers 200 to everything, and the answer to HEAD has no body that could differ.
                try:
                    next(listed_objects(self._probe, self._bucket, f"{self._prefix}blobs/ping/"), None)
                except S3Error as error:
                    if error.code != "AccessDenied":
                        raise
                self._speaks_s3 = True
        if not exists:
            raise StoreUnavailable(f"the S3 server at {self._server} has no such bucket; create it")

    def stat(self, digest: Digest) -> int | None:
        name = self._name(digest)
        with translate_errors(self._server):
            try:
                stored = self._client.stat_object(self._bucket, name)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            _require_blob(stored.content_type)
        return stored.size

    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        position = start
        end = end_of_range(start, length)
        if length == 0 and self.stat(digest) is None:  # HTTP has no range of zero bytes that a GET could ask for
            raise _missing(digest)
        futile_tries = 0
        with translate_errors(self._server):
            while position != end:
                try:
                    response = self._open_range(digest, position, end)
                    if response is None:
                        return
                    with closing(response):  # also for a reader that stops early
                        for chunk in response.stream(CHUNK, decode_content=False):
                            position += len(chunk)
                            futile_tries = 0
                            yield chunk
                    return
                except HTTPError:
                    # A blob never changes, so the next try continues behind the last byte that came. A long download
                    # may be cut any number of times, as long as each try brings it forward.
                    futile_tries += 1
                    if futile_tries == _MAX_FUTILE_TRIES:
                        raise

    def delete(self, digest: Digest) -> None:
        name = self._name(digest)
        with translate_errors(self._server):
            self._client.remove_object(self._bucket, name)

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """See `Store.link`. A link signed with temporary credentials also ends when these expire."""
        response_headers: dict[str, str | list[str] | tuple[str]] = {
            "response-content-disposition": attachment(filename),
            # A browser saves such a blob, whatever its bytes look like, and never shows it.
            "response-content-type": "application/octet-stream",
        }
        lifetime = timedelta(seconds=seconds(expires))
        return self._signer.presigned_get_object(
            self._bucket, self._name(digest), expires=lifetime, response_headers=response_headers
        )

    def list(self) -> Iterator[tuple[Digest, int]]:
        last_name = ""
        with translate_errors(self._server):
            for item in listed_objects(self._client, self._bucket, f"{self._prefix}blobs/sha256/", recursive=True):
                name = str(item.object_name)
                # S3 lists in order. A server that begins again would never end, and fill the memory of whoever lists.
                if name <= last_name:
                    raise StoreUnavailable(f"the S3 server at {self._server} lists its objects again and again")
                last_name = name
                digest = blob_digest(name.removeprefix(self._prefix))
                if digest is not None and item.size is not None:
                    yield digest, item.size

    def abort_stale(self, age: timedelta) -> int:
        with translate_errors(self._server):
            return self.uploads().abort_stale(self._prefix, datetime.now(UTC) - age)

    def uploads(self) -> MultipartUploads:
        """Return the multipart uploads of this store's bucket.

        Their client is opened on first use: importing and opening it costs half a second and 12 MiB, which an API
        process that stores nothing large need not pay.
        """
        with self._uploads_lock:
            if self._uploads is None:
                client = open_botocore(self._settings, self._credentials, connections=4 * CONNECTIONS)
                self._uploads = MultipartUploads(client, self._bucket, retrying(self._patience))
            return self._uploads

    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        name = self._name(digest)
        if size > PART_SIZE:
            with translate_errors(self._server):
                etag = self.uploads().upload_stream(name, chunks, size)
        else:
            # Joining raises IntegrityError for wrong bytes, before anything is sent.
            content = b"".join(chunks)
            etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
            with translate_errors(self._server):
                self._client.put_object(self._bucket, name, io.BytesIO(content), size, part_size=PART_SIZE)
        self._check_stored(digest, size, etag)

    def _check_stored(self, digest: Digest, size: int, etag: str) -> None:
        """Compare what the server stored with what was sent; take it away and raise IntegrityError if it differs."""
        with translate_errors(self._server):
            stored = self._client.stat_object(self._bucket, self._name(digest))
        if (stored.size, bare_etag(stored.etag)) != (size, etag):
            # A server that encrypts makes ETags of its own, so another ETag alone proves nothing: read the object.
            try:
                self.verify(digest, size)
            except IntegrityError:
                self._take_away(digest)
                raise

    def _take_away(self, digest: Digest) -> None:
        """Delete wrong bytes, so that the next upload does not find a blob of the right size and skip it."""
        with translate_errors(self._server):
            try:
                self._client.remove_object(self._bucket, self._name(digest))
            except S3Error as error:
                if error.code != "AccessDenied":
                    raise
                # A worker's account may not delete. No blob with wrong bytes is empty, so this has another size.
                self._client.put_object(self._bucket, self._name(digest), io.BytesIO(b""), 0)

    def _open_range(self, digest: Digest, position: int, end: int | None) -> BaseHTTPResponse | None:
        """Send a GET for the bytes from `position` to `end`; None if the blob has none there. Close the response.

        Raises:
            NotFound: no such blob.
            StoreUnavailable: the server ignored the range.
        """
        length = 0 if end is None else end - position  # the SDK reads 0 as "to the end of the object"
        try:
            response = self._client.get_object(self._bucket, self._name(digest), offset=position, length=length)
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise _missing(digest) from None
            if error.code == "InvalidRange":
                return None
            raise
        try:
            _require_blob(response.headers.get("Content-Type"))
        except NotS3:
            response.close()
            raise
        is_ranged = position > 0 or length > 0
        if is_ranged and not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
            response.close()
            raise StoreUnavailable(f"the S3 server at {self._server} ignored the range of a GET; it cannot be used")
        if 0 < length < int(response.headers["Content-Length"]):
            response.close()
            raise StoreUnavailable(f"the S3 server at {self._server} sends more bytes than the range of a GET has")
        return response

    def _name(self, digest: Digest) -> str:
        return self._prefix + blob_name(digest)


def _require_blob(content_type: str | None) -> None:
    """Return unless the answer is a web page: a console must not make a blob look damaged.

    The store uploads blobs as application/octet-stream.
    """
    if (content_type or "").startswith("text/html"):
        raise NotS3("an HTML page")


def _missing(digest: Digest) -> NotFound:
    return NotFound(f"blob {digest} is not in the store")
