"""Upload large files to S3 in parts: in parallel, resumed after a crash, named only once the bytes are verified.

S3 gives an object its name when the upload is completed. The SHA-256 of all bytes is computed while the parts travel,
so an upload whose bytes differ from the digest is never completed. A part that an earlier process uploaded is
recognized by its ETag, the MD5 of its bytes, and not sent again.

The server checks each part: by its CRC-32, which costs a fifth of an MD5, or by its MD5 if the server knows no
checksums. docs/adr/0030-one-pass-uploads.md has the figures.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from tenacity import Retrying

from enginefarm.contract.digest import Digest, Watch, ignore_progress
from enginefarm.contract.errors import IntegrityError, StoreUnavailable
from models.outbound.s3_answers import bare_etag
from models.outbound.s3_faults import BOTOCORE_ERRORS, error_code
from models.store.part_buffers import PartBuffers, file_parts, stream_parts

# S3 accepts no part below 5 MiB but the last.
PART_SIZE = 8 << 20  # bytes
CONNECTIONS = 4  # of one upload
_PARTS_OF_FILES = 7  # in memory at once, of all uploads of files together: a worker uploads several
_PARTS_OF_A_STREAM = CONNECTIONS + 1  # in memory at once, of one stream: a slow one must not hold up the others
_MAX_PARTS = 10_000  # S3 allows no more in one upload
_MAX_PAGES = 100  # of a listing, each with up to 1,000 entries
_CHECKSUM = "CRC32"  # S3's name; zlib has it, so it needs no further dependency
_REFUSED_CHECKSUM = {"InvalidArgument", "InvalidRequest", "NotImplemented", "501"}
_MAX_UPLOADS = 3  # uploads of one file that other processes may abort before the fourth is not worth a try


@dataclass(frozen=True)
class UnfinishedUpload:
    """An upload on the server that was neither completed nor aborted."""

    name: str  # of the object
    upload_id: str
    started_at: datetime


@dataclass(frozen=True)
class _Upload:
    """An upload that this process began or continues."""

    name: str  # of the object
    upload_id: str
    has_checksums: bool  # the server compares each part with its CRC-32
    stored_etags: Mapping[int, str]  # of the parts that an earlier process sent, by number


@dataclass(frozen=True)
class _Part:
    number: int  # from 1
    etag: str  # the server's: the MD5 in hex, unless the server encrypts
    crc32: str | None  # in Base64; None in an upload without checksums
    is_proven: bool  # the server's answer shows that it has the bytes that were sent


class MultipartUploads:
    """Multipart uploads to one bucket. Safe to share between threads.

    Every method raises the errors of botocore, which `s3_errors.translate_errors` turns into StoreUnavailable.

    Args:
        client: a botocore client of `s3_clients.open_botocore`.
        retrying: retries a request that failed for a transient reason.
    """

    def __init__(self, client: Any, bucket: str, retrying: Retrying) -> None:
        self._client = client
        self._bucket = bucket
        self._retrying = retrying
        self._buffers = PartBuffers(_PARTS_OF_FILES)
        self._asks_for_checksums = True  # until the server refuses to begin an upload with them

    def upload_file(self, name: str, source: Path, digest: Digest, size: int, watch: Watch) -> str:
        """Upload `source`, continuing an unfinished upload of the same object.

        After any failure except wrong bytes, the parts that arrived stay on the server for the next try.

        Returns:
            The ETag that the object must have; "" if its bytes must be read and checked, because the server did not
            show that it has each part, or another process completed the object.

        Raises:
            IntegrityError: `source` does not have the digest and size; its parts are removed from the server.
            FarmError: `source` cannot be read.
            StoreUnavailable: other processes aborted the upload again and again.
        """
        for _ in range(_MAX_UPLOADS):
            upload: _Upload | None = None
            try:
                upload = self._continued(name) or self._create(name)
                # Hash the file as it is now: it may have changed since its digest was computed.
                with self._buffers as buffers:
                    parts = file_parts(source, digest, size, _part_size(size), buffers)
                    return self._send(upload, parts, buffers, watch)
            except IntegrityError:
                if upload is not None:
                    self._abort(name, upload.upload_id)
                raise
            except ClientError as error:
                # Some servers answer 500 for good when two workers complete the same upload at once. The object then
                # exists; with the ETag "" the caller reads and checks all of its bytes.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 and self._has_object(name, size):
                    return ""
                if not _is_no_such_upload(error):
                    raise
            # The upload ended under us: another worker completed it, we did and the answer was lost, or it was aborted.
            if self._has_object(name, size):
                return ""
        raise StoreUnavailable(f"other processes abort each upload of {digest}; look for a second farm on this bucket")

    def upload_stream(self, name: str, chunks: Iterable[bytes], size: int) -> str:
        """Upload `chunks`, `size` bytes in all; returns the ETag as `upload_file` does.

        A stream cannot be sent again, so after any failure its parts are removed from the server.

        Raises:
            Exception: what iterating over `chunks` raises.
        """
        upload = self._create(name)
        try:
            with PartBuffers(_PARTS_OF_A_STREAM) as buffers:
                parts = stream_parts(chunks, size, _part_size(size), buffers)
                return self._send(upload, parts, buffers, watch=ignore_progress)
        except BaseException as error:
            # A worker that uploads the same file may continue this upload, and complete it.
            if _is_no_such_upload(error) and self._has_object(name, size):
                return ""
            with suppress(*BOTOCORE_ERRORS):  # `abort_stale` removes later what stays now
                self._abort(name, upload.upload_id)
            raise

    def unfinished(self, prefix: str) -> list[UnfinishedUpload]:
        """Return the unfinished uploads of objects whose name begins with `prefix`."""
        return [
            UnfinishedUpload(upload["Key"], upload["UploadId"], upload["Initiated"])
            for page in self._pages("list_multipart_uploads", Prefix=prefix)
            for upload in page.get("Uploads", ())
        ]

    def abort_stale(self, prefix: str, before: datetime) -> int:
        """Abort the uploads below `prefix` that started before a time; returns how many."""
        stale = [upload for upload in self.unfinished(prefix) if upload.started_at < before]
        for upload in stale:
            self._abort(upload.name, upload.upload_id)
        return len(stale)

    def _send(self, upload: _Upload, parts: Iterable[bytearray], buffers: PartBuffers, watch: Watch) -> str:
        """Send the parts that the server does not have and complete the upload; returns the expected ETag."""
        sent_parts: list[_Part] = []
        pending: deque[Future[_Part]] = deque()
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="upload") as pool:
            # The buffers bound how many parts are read ahead of those that are sent.
            for number, content in enumerate(parts, start=1):
                try:
                    pending.append(pool.submit(self._send_part, upload, number, content, buffers, watch))
                except RuntimeError:  # no thread can be started
                    buffers.give_back(content)
                    raise
                while pending and pending[0].done():
                    sent_parts.append(pending.popleft().result())
            sent_parts.extend(future.result() for future in pending)
        named_parts: list[dict[str, Any]] = []
        for part in sent_parts:
            checksum = {} if part.crc32 is None else {"ChecksumCRC32": part.crc32}
            named_parts.append({"PartNumber": part.number, "ETag": part.etag} | checksum)
        answer = self._call(
            "complete_multipart_upload",
            Key=upload.name,
            UploadId=upload.upload_id,
            MultipartUpload={"Parts": named_parts},
        )
        if not all(part.is_proven for part in sent_parts):
            return ""
        if upload.has_checksums:
            # The server's own name of what it put together: one that encrypts makes other ETags than those below.
            return bare_etag(answer.get("ETag"))
        md5_of_parts = _md5(b"".join(bytes.fromhex(part.etag) for part in sent_parts))
        return f"{md5_of_parts.hex()}-{len(sent_parts)}"

    def _send_part(self, upload: _Upload, number: int, content: bytearray, buffers: PartBuffers, watch: Watch) -> _Part:
        """Send one part, unless the server has it, and report its size to `watch`."""
        crc32 = md5 = None
        try:
            checksum = {}
            if upload.has_checksums:
                crc32 = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
                checksum["ChecksumCRC32"] = crc32
            if crc32 is None or number in upload.stored_etags:
                md5 = _md5(content)
                if upload.stored_etags.get(number) == md5.hex():
                    watch(len(content))
                    return _Part(number, md5.hex(), crc32, is_proven=True)
                if crc32 is None:
                    checksum["ContentMD5"] = base64.b64encode(md5).decode()
            answer = self._call(
                "upload_part",
                Key=upload.name,
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=content,
                **checksum,
            )
            # A proxy may strip the header; without it the upload cannot be completed.
            if "ETag" not in answer:
                raise StoreUnavailable(
                    "the S3 server answers an uploaded part without an ETag; check any proxy before it"
                )
            etag = bare_etag(answer["ETag"])
            is_proven = crc32 is not None and answer.get("ChecksumCRC32") == crc32
            if not is_proven:
                # Some servers repeat the algorithm of an upload, but no part's checksum.
                is_proven = etag == (md5 or _md5(content)).hex()
            watch(len(content))
            return _Part(number, etag, crc32, is_proven)
        finally:
            buffers.give_back(content)

    def _continued(self, name: str) -> _Upload | None:
        """Return the unfinished upload of this object that is worth continuing; None if there is none."""
        # The server lists all names that begin with this one.
        unfinished = [upload for upload in self.unfinished(name) if upload.name == name]
        if not unfinished:
            return None
        # Two processes may have begun one each: the youngest is the least likely to be aborted as stale.
        upload_id = max(unfinished, key=lambda upload: upload.started_at).upload_id
        stored_etags: dict[int, str] = {}
        algorithm = None
        for page in self._pages("list_parts", Key=name, UploadId=upload_id):
            algorithm = page.get("ChecksumAlgorithm")
            for part in page.get("Parts", ()):
                stored_etags[part["PartNumber"]] = bare_etag(part["ETag"])
        return _Upload(name, upload_id, algorithm == _CHECKSUM, stored_etags)

    def _create(self, name: str) -> _Upload:
        arguments = {"Key": name, "ContentType": "application/octet-stream"}
        if self._asks_for_checksums:
            try:
                answer = self._call("create_multipart_upload", ChecksumAlgorithm=_CHECKSUM, **arguments)
            except ClientError as error:
                # Most servers ignore what they do not know; some refuse it.
                if error_code(error) not in _REFUSED_CHECKSUM:
                    raise
                self._asks_for_checksums = False
            else:
                # A server without checksums does not repeat the algorithm.
                return _Upload(name, str(answer["UploadId"]), answer.get("ChecksumAlgorithm") == _CHECKSUM, {})
        answer = self._call("create_multipart_upload", **arguments)
        return _Upload(name, str(answer["UploadId"]), has_checksums=False, stored_etags={})

    def _abort(self, name: str, upload_id: str) -> None:
        self._call("abort_multipart_upload", Key=name, UploadId=upload_id)

    def _has_object(self, name: str, size: int) -> bool:
        try:
            return bool(self._call("head_object", Key=name)["ContentLength"] == size)
        except ClientError as error:
            if error_code(error) == "404":  # the answer to HEAD has no body, so no S3 code
                return False
            raise

    def _call(self, operation: str, **arguments: Any) -> Any:
        return self._retrying(getattr(self._client, operation), Bucket=self._bucket, **arguments)

    def _pages(self, operation: str, **arguments: Any) -> list[Any]:
        # A retry starts the listing again from its first page; listings here have one or a few.
        paginator = self._client.get_paginator(operation)
        # One more than allowed, so that a listing without an end is noticed and not taken for complete.
        pages = self._retrying(
            lambda: list(islice(paginator.paginate(Bucket=self._bucket, **arguments), _MAX_PAGES + 1))
        )
        if len(pages) > _MAX_PAGES:
            raise StoreUnavailable(f"the S3 server lists more than {_MAX_PAGES} pages of unfinished uploads or parts")
        return list(pages)


def _is_no_such_upload(error: BaseException) -> bool:
    return isinstance(error, ClientError) and error_code(error) == "NoSuchUpload"


def _part_size(size: int) -> int:
    """The same for every try of a file, or no stored part could be used again."""
    return max(PART_SIZE, -(-size // _MAX_PARTS))


def _md5(content: bytes | bytearray) -> bytes:
    # Not for security: so declared, MD5 works on machines in FIPS mode too.
    return hashlib.md5(content, usedforsecurity=False).digest()
