"""Upload large files to S3 in parts: in parallel, resumed after a crash, named only once the bytes are verified.

S3 gives an object its name when the upload is completed. The SHA-256 of all bytes is computed while the parts travel,
so an upload whose bytes differ from the digest is never completed. A part that an earlier process uploaded is
recognized by its ETag, the MD5 of its bytes, and not sent again.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from tenacity import Retrying

from enginefarm.contract.digest import Digest, Watch, ignore_progress, verified
from enginefarm.contract.errors import IntegrityError, StoreUnavailable
from models.outbound.s3_answers import bare_etag
from models.outbound.s3_faults import BOTOCORE_ERRORS, error_code
from models.store.protocol import file_chunks

# S3 accepts no part below 5 MiB but the last.
PART_SIZE = 8 << 20  # bytes; CONNECTIONS + 1 parts are in memory at once
CONNECTIONS = 4
_MAX_PARTS = 10_000  # S3 allows no more in one upload
_MAX_PAGES = 100  # of a listing, each with up to 1,000 entries
_MAX_UPLOADS = 3  # uploads of one file that other processes may abort before the fourth is not worth a try


@dataclass(frozen=True)
class UnfinishedUpload:
    """An upload on the server that was neither completed nor aborted."""

    name: str  # of the object
    upload_id: str
    started_at: datetime


@dataclass(frozen=True)
class _Part:
    number: int  # from 1
    md5: bytes  # computed here
    etag: str  # the server's: the MD5 in hex, unless the server encrypts


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

    def upload_file(self, name: str, source: Path, digest: Digest, size: int, watch: Watch) -> str:
        """Upload `source`, continuing an unfinished upload of the same object.

        After any failure except wrong bytes, the parts that arrived stay on the server for the next try.

        Returns:
            The ETag that the object has on a server that computes ETags as S3 does without encryption; "" if another
            process completed the object.

        Raises:
            IntegrityError: `source` does not have the digest and size; its parts are removed from the server.
            FarmError: `source` cannot be read.
            StoreUnavailable: other processes aborted the upload again and again.
        """
        for _ in range(_MAX_UPLOADS):
            # The server lists all names that begin with this one.
            unfinished = [upload for upload in self.unfinished(name) if upload.name == name]
            stored_etags: dict[int, str] = {}
            upload_id = ""
            try:
                if unfinished:
                    # Two processes may have begun one each: the youngest is the least likely to be aborted as stale.
                    upload_id = max(unfinished, key=lambda upload: upload.started_at).upload_id
                    for page in self._pages("list_parts", Key=name, UploadId=upload_id):
                        for part in page.get("Parts", ()):
                            stored_etags[part["PartNumber"]] = bare_etag(part["ETag"])
                else:
                    upload_id = self._create(name)
                # Hash the file as it is now: it may have changed since its digest was computed.
                chunks = verified(file_chunks(source), digest, size, what=str(source))
                return self._send(name, upload_id, chunks, size, stored_etags, watch)
            except IntegrityError:
                self._abort(name, upload_id)
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
        upload_id = self._create(name)
        try:
            return self._send(name, upload_id, chunks, size, stored_etags={}, watch=ignore_progress)
        except BaseException as error:
            # A worker that uploads the same file may continue this upload, and complete it.
            if _is_no_such_upload(error) and self._has_object(name, size):
                return ""
            with suppress(*BOTOCORE_ERRORS):  # `abort_stale` removes later what stays now
                self._abort(name, upload_id)
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

    def _send(
        self,
        name: str,
        upload_id: str,
        chunks: Iterable[bytes],
        size: int,
        stored_etags: Mapping[int, str],
        watch: Watch,
    ) -> str:
        """Send the parts that the server does not have and complete the upload; returns the expected ETag."""
        # The same part size for every try of a file, or no stored part could be used again.
        part_size = max(PART_SIZE, -(-size // _MAX_PARTS))
        sent_parts: list[_Part] = []
        pending: deque[Future[_Part]] = deque()
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="upload") as pool:
            for number, content in enumerate(_split(chunks, part_size), start=1):
                if len(pending) == CONNECTIONS:  # bounds the memory
                    sent_parts.append(pending.popleft().result())
                stored_etag = stored_etags.get(number, "")
                pending.append(pool.submit(self._send_part, name, upload_id, number, content, stored_etag, watch))
            sent_parts.extend(future.result() for future in pending)
        self._call(
            "complete_multipart_upload",
            Key=name,
            UploadId=upload_id,
            MultipartUpload={"Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in sent_parts]},
        )
        # Not for security: so declared, MD5 works on machines in FIPS mode too.
        md5_of_parts = hashlib.md5(b"".join(part.md5 for part in sent_parts), usedforsecurity=False)
        return f"{md5_of_parts.hexdigest()}-{len(sent_parts)}"

    def _send_part(
        self, name: str, upload_id: str, number: int, content: bytearray, stored_etag: str, watch: Watch
    ) -> _Part:
        """Send one part, unless the server has it, and report its size to `watch`."""
        md5 = hashlib.md5(content, usedforsecurity=False)
        etag = stored_etag
        if stored_etag != md5.hexdigest():
            answer = self._call(
                "upload_part",
                Key=name,
                UploadId=upload_id,
                PartNumber=number,
                Body=content,
                ContentMD5=base64.b64encode(md5.digest()).decode(),
            )
            # A proxy may strip the header; without it the upload cannot be completed.
            if "ETag" not in answer:
                raise StoreUnavailable(
                    "the S3 server answers an uploaded part without an ETag; check any proxy before it"
                )
            etag = bare_etag(answer["ETag"])
        watch(len(content))
        return _Part(number, md5.digest(), etag)

    def _create(self, name: str) -> str:
        answer = self._call("create_multipart_upload", Key=name, ContentType="application/octet-stream")
        return str(answer["UploadId"])

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


def _split(chunks: Iterable[bytes], size: int) -> Iterator[bytearray]:
    """Cut `chunks` into parts of `size` bytes, and a last part of 1 to `size`.

    Not `bytes`: botocore joins a body of that type with the headers, which copies every part once more.
    """
    part = bytearray()
    for chunk in chunks:
        part += chunk
        while len(part) >= size:
            following = part[size:]
            del part[size:]
            yield part
            part = following
    if part:
        yield part
