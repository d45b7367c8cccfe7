"""Resolve and fetch `s3:` models. A model is identified by path, size and ETag of the files that are used.

An ETag is a fingerprint that also depends on how the file was uploaded: the same model uploaded with another part size
is another identity. That costs a build, never correctness.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path

import rfc8785
from minio import Minio
from minio.datatypes import Object
from minio.error import S3Error

from enginefarm.contract import digest
from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.errors import ModelUnavailable, SourceUnavailable, StoreUnavailable
from enginefarm.contract.model.reference import BucketReference, parse
from enginefarm.contract.model.resolved_files import ModelFile, ResolvedModel
from models.caching import SingleFlight, TimedCache
from models.outbound import time_limit
from models.outbound.s3_answers import bare_etag, listed_objects
from models.outbound.s3_faults import MODELS_SETTINGS, S3_ERRORS, fault_of
from models.sources.inspection.inspector import Inspector
from models.sources.inspection.model_files import select
from models.sources.protocol import write_new
from models.sources.rejection import changed, refusal
from models.sources.trust import NOBODY, Trust

MAX_LISTED_OBJECTS = 50_000  # directly below one prefix
LISTING_SECONDS = 10.0  # a burst of submits lists once; `fetch` refuses a file that changed meanwhile
RESOLVE_SECONDS = 10.0  # for all pages of a listing, the first reads and retries together: a submit waits for them
INSPECTED_SECONDS = 3600.0  # an unchanged listing is not inspected again; this only bounds what is remembered


class BucketSource:
    """`s3:` models.

    Args:
        client: has the credentials that the farm reads models with.
        server: host and port of the S3 server, for error texts.
        trust: the models whose own code is part of the model.
        clock: seconds, for the age of remembered answers.
    """

    def __init__(
        self,
        client: Minio,
        *,
        server: str = "",
        trust: Trust = NOBODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._server = f"the S3 server at {server}" if server else "the S3 server"
        self._trust = trust
        self._listing: SingleFlight[BucketReference, ResolvedModel] = SingleFlight()
        self._resolved: TimedCache[BucketReference, ResolvedModel] = TimedCache(clock=clock)
        self._inspector = Inspector()
        self._inspected: TimedCache[tuple[BucketReference, digest.Digest], ResolvedModel] = TimedCache(clock=clock)

    def resolve_model(self, reference: BucketReference) -> ResolvedModel:
        """See `Source.resolve_model`."""
        with time_limit.within(RESOLVE_SECONDS):
            return self.cached_model(reference) or self._listing.run(reference, partial(self._list_and_read, reference))

    def cached_model(self, reference: BucketReference) -> ResolvedModel | None:
        """See `Source.cached_model`."""
        return self._resolved.get(reference)

    def fetch(self, model: ResolvedModel, destination: Path, watch: Watch = ignore_progress) -> None:
        """See `Source.fetch`."""
        reference = parse(model.reference)
        if not isinstance(reference, BucketReference):
            raise TypeError(f"{reference} names no bucket")
        for file in model.files:
            with self._translated(reference):
                write_new(destination / file.path, self._read(reference, file, watch))

    def _list_and_read(self, reference: BucketReference) -> ResolvedModel:
        # Another thread may have filled the cache after this one missed it and before it got here.
        model = self._resolved.get(reference)
        if model is not None:
            return model
        prefix = f"{reference.prefix}/"  # with the slash: `tiny/` must not list `tiny-2/`
        objects: dict[str, Object] = {}
        listed = 0
        with self._translated(reference):
            # Not recursive: only files at the top count.
            for item in listed_objects(self._client, reference.bucket, prefix):
                name = str(item.object_name).removeprefix(prefix)
                listed += 1
                if listed > MAX_LISTED_OBJECTS:
                    raise self._unavailable(reference, f"lists more than {MAX_LISTED_OBJECTS} objects", lasting=True)
                if name and not item.is_dir:  # some tools leave an empty object with the name of the folder
                    objects[name] = item

        # The whole listing, because unused files also decide which others are used.
        listing = [[name, item.size, item.etag] for name, item in sorted(objects.items())]
        cache_key = (reference, digest.of_bytes(json.dumps(listing).encode()))
        model = self._inspected.get(cache_key)
        if model is None:
            model = self._inspect(reference, objects)
            self._inspected.put(cache_key, model, INSPECTED_SECONDS)
        self._resolved.put(reference, model, LISTING_SECONDS)
        return model

    def _inspect(self, reference: BucketReference, objects: Mapping[str, Object]) -> ResolvedModel:
        """Select files among the listed objects and read the model's facts."""
        trusted = self._trust.allows(reference)
        # Cached: the index is needed to select files, and again to compare it with them.
        read = cache(partial(self._read_start, reference, objects))
        files: list[ModelFile] = []
        # `select` sorts the names, so that the same model always has the same identity.
        identity: list[dict[str, str | int]] = []
        for name in select(reference, objects, read, trusted=trusted):
            file = _listed_file(name, objects[name])
            files.append(file)
            identity.append({"path": name, "size": file.size, "etag": file.etag or ""})
        sizes = {file.path: file.size for file in files}
        return ResolvedModel(
            reference=str(reference),
            identity={"source": "s3", "digest": digest.of_bytes(rfc8785.dumps({"files": identity}))},
            files=tuple(files),
            facts=self._inspector.read_model(reference, sizes, objects, read, trusted=trusted),
        )

    def _read_start(self, reference: BucketReference, objects: Mapping[str, Object], name: str, length: int) -> bytes:
        file = _listed_file(name, objects[name])
        start = bytearray()
        if file.size == 0:  # no range of an empty object can be asked for
            return b""
        with self._translated(reference), closing(self._read(reference, file, length=min(length, file.size))) as chunks:
            for chunk in chunks:
                start += chunk
                if len(start) >= length:
                    break
        return bytes(start[:length])

    def _read(
        self, reference: BucketReference, file: ModelFile, watch: Watch = ignore_progress, *, length: int | None = None
    ) -> Generator[bytes, None, None]:
        """Yield the bytes of `file`. With `length`, only its first bytes are asked for; more may come.

        Raises:
            ModelUnavailable: the object is no longer the one that was listed.
        """
        # Compare the headers before the first byte: a large file that was replaced need not be fetched to find out.
        key = f"{reference.prefix}/{file.path}"
        if length is None:
            response = self._client.get_object(reference.bucket, key)
        else:
            response = self._client.get_object(reference.bucket, key, offset=0, length=length)
        with closing(response):
            etag = bare_etag(response.headers.get("ETag"))
            size = response.headers.get("Content-Length")
            if not etag and file.etag:
                fault = f"sends {file.path} without the ETag that it lists; check any proxy before it"
                raise self._unavailable(reference, fault, lasting=True)
            # A proxy may ignore the range and answer with the whole object.
            if etag != file.etag or size not in {str(file.size), str(length)}:
                raise changed(reference, f"{file.path} is another object now (ETag {etag}, was {file.etag})")
            # As they are stored: these are the bytes that the listing counts.
            for chunk in response.stream(digest.CHUNK, decode_content=False):
                yield chunk
                watch(len(chunk))
            response.release_conn()  # read to its end, so the connection can serve the next file

    @contextmanager
    def _translated(self, reference: BucketReference) -> Iterator[None]:
        """Turn errors of the SDK into the farm's. The text of the server is not repeated: it may hold credentials."""
        try:
            yield
        except S3_ERRORS as error:
            if isinstance(error, S3Error):
                refused = _refusal(reference, error.code or "")
                if refused is not None:
                    raise refused from error
            fault = fault_of(error, MODELS_SETTINGS)
            raise self._unavailable(reference, fault.text, lasting=fault.lasting) from None
        except StoreUnavailable as error:  # the keys of the standard chain, which the store may use too
            raise SourceUnavailable(f"{reference}: {error.detail}", lasting=error.lasting) from error

    def _unavailable(self, reference: BucketReference, fault: str, *, lasting: bool) -> SourceUnavailable:
        """Return the error for a server that fails; `fault` is the predicate of its text."""
        text = f"{reference}: {self._server} {fault}"
        if not lasting and "try again later" not in text:
            text += "; try again later"
        return SourceUnavailable(text, lasting=lasting)


def _refusal(reference: BucketReference, code: str) -> ModelUnavailable | None:
    """Return the refusal of a model for the error code of its server; None if the server is at fault."""
    match code:
        case "NoSuchBucket":
            return refusal(
                reference,
                "model_not_found",
                f"there is no bucket {reference.bucket}",
                expected="a bucket of the S3 server that this farm reads models from",
                remedy="check the spelling of the bucket",
            )
        case "InvalidBucketName":
            return refusal(
                reference,
                "model_not_found",
                f"the S3 server knows no buckets with names like {reference.bucket}",
                expected="a bucket of the S3 server that this farm reads models from",
                remedy="check the spelling of the bucket",
            )
        case "AccessDenied":
            return refusal(
                reference,
                "model_forbidden",
                f"the farm's S3 credentials may not read the bucket {reference.bucket}",
                expected="a bucket that the farm may list and read",
                remedy="grant the farm's S3 user ListBucket and GetObject on it",
            )
        case "NoSuchKey":  # only listed objects are asked for, so somebody deleted it since
            return changed(reference, "a file is gone")
    return None


def _listed_file(name: str, item: Object) -> ModelFile:
    return ModelFile(path=name, size=item.size or 0, etag=bare_etag(item.etag))
