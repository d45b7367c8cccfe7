"""A large file on its way to S3: parts in parallel, taken up again after a crash, never named before they are checked.

The whole file is hashed while its parts travel; the upload is completed, which gives the object its name, only if the
bytes are those of the digest. What a dead process sent is found on the server by its ETags and not sent again.

This uses the SDK's own calls of S3's multipart API, which it keeps under names with an underscore: its public upload
starts anew after every failure.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

from minio import Minio
from minio.datatypes import Part, Upload
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from enginefarm.contract.digest import Digest, verified
from enginefarm.contract.errors import FarmError, IntegrityError, StoreUnavailable
from models.store.protocol import Watch, file_chunks

PART = 8 << 20  # bytes; one of them a connection is in memory
CONNECTIONS = 4
_MAX_PARTS = 10_000
_HEADERS: dict[str, str | list[str] | tuple[str]] = {"Content-Type": "application/octet-stream"}
_ROUNDS = 3  # uploads that somebody else may abort or complete under us before we give up


@dataclass(frozen=True)
class Target:
    client: Minio
    bucket: str
    name: str


def upload(target: Target, source: Path, digest: Digest, size: int, watch: Watch) -> str:
    """Send `source`; returns the ETag that a server which follows the usual form gives the object.

    Whatever goes wrong but wrong bytes, the parts that arrived stay on the server for the next try.

    Raises:
        IntegrityError: `source` is not what `digest` and `size` say; nothing is left on the server.
        FarmError: `source` cannot be read.
        S3Error, HTTPError: see `explained`.
    """
    for _ in range(_ROUNDS):
        upload_id = _unfinished(target) or target.client._create_multipart_upload(target.bucket, target.name, _HEADERS)
        try:
            return _Sending(target, upload_id, source, digest, size, watch).run()
        except IntegrityError:
            target.client._abort_multipart_upload(target.bucket, target.name, upload_id)
            raise
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
        if _is_there(target, size):  # completed: by another worker, or by us with the answer lost
            return ""
    raise StoreUnavailable(f"the upload of {digest} was aborted by somebody else, {_ROUNDS} times")


def stream(target: Target, chunks: Iterable[bytes], size: int) -> str:
    """Send `chunks`, of `size` bytes in all, as they come; returns the ETag as `upload` does.

    What comes once cannot be sent again: whatever goes wrong, nothing is left on the server.

    Raises:
        What `chunks` raises; S3Error, HTTPError: see `explained`.
    """
    upload_id = target.client._create_multipart_upload(target.bucket, target.name, _HEADERS)
    try:
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="upload") as pool:
            sent = list(_sent_as_they_come(target, upload_id, pool, _parts(chunks, _part_size(size))))
        return _completed(target, upload_id, sent)
    except BaseException as error:
        if isinstance(error, S3Error) and error.code == "NoSuchUpload" and _is_there(target, size):
            return ""  # a worker that uploads the same file took our upload up, and completed it
        with suppress(MinioException, HTTPError):  # what is left then is stale one day
            target.client._abort_multipart_upload(target.bucket, target.name, upload_id)
        raise


def _sent_as_they_come(
    target: Target, upload_id: str, pool: ThreadPoolExecutor, parts: Iterator[bytes]
) -> Iterator[_Sent]:
    """As many parts are in memory as there are connections, and one more."""
    sending: deque[Future[_Sent]] = deque()
    for number, data in enumerate(parts, start=1):
        if len(sending) == CONNECTIONS:
            yield sending.popleft().result()
        sending.append(pool.submit(_send, target, upload_id, number, data))
    for future in sending:
        yield future.result()


def _send(target: Target, upload_id: str, number: int, data: bytes) -> _Sent:
    etag = target.client._upload_part(target.bucket, target.name, data, None, upload_id, number)
    return _Sent(number, hashlib.md5(data, usedforsecurity=False).digest(), etag)


def _parts(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


def _part_size(size: int) -> int:
    """The same for every try, or no part could be kept."""
    return max(PART, -(-size // _MAX_PARTS))


def _completed(target: Target, upload_id: str, sent: Sequence[_Sent]) -> str:
    parts = [Part(part.number, part.etag) for part in sent]
    target.client._complete_multipart_upload(target.bucket, target.name, upload_id, parts)
    whole = hashlib.md5(b"".join(part.md5 for part in sent), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(sent)}"


def unfinished(client: Minio, bucket: str, prefix: str) -> Iterator[Upload]:
    """Uploads that were begun under `prefix` and neither completed nor aborted."""
    marker: str | None = None
    while True:
        # Without a delimiter the SDK sends an empty one, which Swift finds in every name; '|' is in none of ours.
        page = client._list_multipart_uploads(bucket, prefix=prefix, delimiter="|", key_marker=marker)
        yield from page.uploads
        if not page.is_truncated or not page.next_key_marker:
            return
        marker = page.next_key_marker


def abort_stale(client: Minio, bucket: str, prefix: str, before: datetime) -> int:
    """Abort uploads begun before a time; returns how many."""
    stale = [found for found in unfinished(client, bucket, prefix) if _begun(found) < before]
    for found in stale:
        client._abort_multipart_upload(bucket, str(found.object_name), str(found.upload_id))
    return len(stale)


def _begun(found: Upload) -> datetime:
    assert found.initiated_time is not None, "every server says when an upload began"
    return found.initiated_time


def _unfinished(target: Target) -> str | None:
    """The newest unfinished upload of this very object."""
    ours = [u for u in unfinished(target.client, target.bucket, target.name) if u.object_name == target.name]
    return str(max(ours, key=_begun).upload_id) if ours else None


def _is_there(target: Target, size: int) -> bool:
    try:
        return target.client.stat_object(target.bucket, target.name).size == size
    except S3Error as error:
        if error.code == "NoSuchKey":
            return False
        raise


@dataclass(frozen=True)
class _Sent:
    number: int
    md5: bytes  # our own
    etag: str  # the server's word for it: the MD5 in hex, unless it encrypts


class _Sending:
    """One multipart upload, from the first part that is missing on the server to its completion."""

    def __init__(self, target: Target, upload_id: str, source: Path, digest: Digest, size: int, watch: Watch) -> None:
        self._target, self._upload_id = target, upload_id
        self._source, self._digest, self._size, self._watch = source, digest, size, watch
        self._part_size = _part_size(size)
        self._given_up = Event()

    def run(self) -> str:
        there = dict(self._there())
        with ThreadPoolExecutor(CONNECTIONS + 1, thread_name_prefix="upload") as pool:
            try:
                sent = self._sent(pool, there)
            except BaseException:
                self._given_up.set()
                pool.shutdown(cancel_futures=True)
                raise
        return _completed(self._target, self._upload_id, sent)

    def _sent(self, pool: ThreadPoolExecutor, there: Mapping[int, str]) -> list[_Sent]:
        count = -(-self._size // self._part_size)
        hashing = pool.submit(self._check_source)
        sending = [pool.submit(self._send, number, there) for number in range(1, count + 1)]
        futures: list[Future[Any]] = [hashing, *sending]
        for done in as_completed(futures):
            done.result()  # the first that failed ends the upload
        return [future.result() for future in sending]

    def _check_source(self) -> None:
        """Hash the file as it is now: it might have changed since it was named."""
        for _ in verified(file_chunks(self._source), self._digest, self._size, what=str(self._source)):
            if self._given_up.is_set():
                return

    def _send(self, number: int, there: Mapping[int, str]) -> _Sent:
        """One part, unless the server has it."""
        if self._given_up.is_set():
            raise CancelledError
        data = self._read(number)
        md5 = hashlib.md5(data, usedforsecurity=False)
        etag = there.get(number, "")
        if etag != md5.hexdigest():
            target = self._target
            etag = target.client._upload_part(target.bucket, target.name, data, None, self._upload_id, number)
        self._watch(len(data))
        return _Sent(number, md5.digest(), etag)

    def _read(self, number: int) -> bytes:
        try:
            with self._source.open("rb") as stream:
                return os.pread(stream.fileno(), self._part_size, (number - 1) * self._part_size)
        except OSError as error:
            raise FarmError(f"{self._source} cannot be read: {error.strerror}") from error

    def _there(self) -> Iterator[tuple[int, str]]:
        """Number and ETag of the parts that the server has."""
        marker: str | None = None
        while True:
            page = self._target.client._list_parts(
                self._target.bucket, self._target.name, self._upload_id, part_number_marker=marker
            )
            yield from ((part.part_number, part.etag) for part in page.parts)
            if not page.is_truncated:
                return
            marker = str(page.next_part_number_marker)
