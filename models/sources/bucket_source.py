"""Models in S3 buckets, identified by the listing: name, size and ETag of every file that counts.

An ETag is a fingerprint, but one that also depends on how the file was uploaded: the same model uploaded
with other part sizes is another identity. That costs a build, never correctness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import rfc8785
import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import MinioException, S3Error

from enginefarm.contract import digest
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import EnginefarmError, SourceUnavailable
from enginefarm.contract.model_reference import BucketReference, parse
from enginefarm.contract.resolved_files import ModelFile, ResolvedModel
from models.caching import SingleFlight, TimedCache
from models.sources.config_facts import MAX_CONFIG_BYTES, read_facts, too_large
from models.sources.model_files import CONFIG, is_weights, select
from models.sources.protocol import write_new
from models.sources.rejection import changed, refusal
from models.sources.trust import NOBODY, Trust

LISTING_SECONDS = 10.0  # a burst of submits lists once; what changes meanwhile is refused by `fetch`


class BucketSource:
    """Resolves and fetches `s3:` models.

    Args:
        client: with the credentials that the farm reads models with.
        trust: whose code counts as part of the model.
        clock: seconds, for how long an answer is kept.
    """

    def __init__(self, client: Minio, *, trust: Trust = NOBODY, clock: Callable[[], float] = time.monotonic) -> None:
        self._trust = trust
        self._client = client
        self._asking: SingleFlight[BucketReference, ResolvedModel] = SingleFlight()
        self._answers: TimedCache[BucketReference, ResolvedModel] = TimedCache(clock=clock)

    def resolve(self, reference: BucketReference) -> ResolvedModel:
        return self.at_hand(reference) or self._asking.run(reference, partial(self._ask, reference))

    def at_hand(self, reference: BucketReference) -> ResolvedModel | None:
        return self._answers.get(reference)

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        reference = parse(model.reference)
        if not isinstance(reference, BucketReference):
            raise TypeError(f"{reference} names no bucket")
        for file in model.files:
            with _explained(reference):
                write_new(destination / file.path, self._read(reference, file))

    def _ask(self, reference: BucketReference) -> ResolvedModel:
        # A thread that missed the cache just before another one filled it need not ask again.
        if known := self._answers.get(reference):
            return known
        listed = self._list(reference)
        trusted = self._trust.allows(reference)
        files = tuple(_file(name, listed[name]) for name in select(reference, listed, trusted=trusted))
        weights = [file.size for file in files if is_weights(file.path)]
        resolved = ResolvedModel(
            reference=str(reference),
            identity={"source": "s3", "digest": _identity(files)},
            files=files,
            facts=read_facts(reference, self._config(reference, files), weights, listed, trusted=trusted),
        )
        self._answers.put(reference, resolved, LISTING_SECONDS)
        return resolved

    def _list(self, reference: BucketReference) -> dict[str, Object]:
        prefix = f"{reference.prefix}/"
        with _explained(reference):
            objects = list(self._client.list_objects(reference.bucket, prefix=prefix))
        named = ((str(item.object_name).removeprefix(prefix), item) for item in objects if not item.is_dir)
        return {name: item for name, item in named if name}  # some tools leave an empty object named like the folder

    def _config(self, reference: BucketReference, files: tuple[ModelFile, ...]) -> bytes:
        config = next(file for file in files if file.path == CONFIG)
        if config.size > MAX_CONFIG_BYTES:
            raise too_large(reference)
        with _explained(reference):
            return b"".join(self._read(reference, config))

    def _read(self, reference: BucketReference, file: ModelFile) -> Iterator[bytes]:
        """The bytes of `file`, as long as it is the one that was listed."""
        response = self._client.get_object(reference.bucket, f"{reference.prefix}/{file.path}")
        with closing(response):
            etag, size = response.headers.get("ETag", "").strip('"'), response.headers.get("Content-Length")
            if etag != file.etag or size != str(file.size):
                raise changed(reference, f"{file.path} is another object now (ETag {etag}, was {file.etag})")
            yield from response.stream(digest.CHUNK)
            response.release_conn()


def _file(name: str, item: Object) -> ModelFile:
    return ModelFile(path=name, size=item.size or 0, etag=(item.etag or "").strip('"'))


def _identity(files: tuple[ModelFile, ...]) -> Digest:
    listing = [{"path": file.path, "size": file.size, "etag": file.etag} for file in files]
    return digest.of_bytes(rfc8785.dumps({"files": listing}))


@contextmanager
def _explained(reference: BucketReference) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise _explain(reference, error.code) from error
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise _unavailable(reference, f"did not answer ({type(error).__name__})") from error


def _explain(reference: BucketReference, code: str | None) -> EnginefarmError:
    match code:
        case "NoSuchBucket":
            return refusal(
                reference,
                "model_not_found",
                f"there is no bucket {reference.bucket}",
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
        case "NoSuchKey":
            return changed(reference, "a file is gone")
        case _:
            return _unavailable(reference, f"answered {code}")


def _unavailable(reference: BucketReference, what: str) -> SourceUnavailable:
    return SourceUnavailable(f"{reference}: the S3 server {what}; try again later")
