"""A bundle, into a farm: what its store lacks is sent, then each engine appears by one call."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.bundle.archive import Bundle
from enginefarm.client.farm import Farm
from enginefarm.client.retry import note_progress, retrying
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import FarmError, Gone, NotFound
from enginefarm.transfer.progress import Activity, OnProgress, Progress
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.trust.provenance import verify_record
from enginefarm.wire.bodies import EngineSummary
from enginefarm.wire.engine_record import EngineRecord, ImportResult


def import_bundle(
    farm: Farm, bundle: Bundle, trusted: TrustedKeys, *, progress: OnProgress | None = None
) -> Iterator[ImportResult]:
    """Bring every engine of `bundle` into the farm; says of each what became of it, as soon as it is there.

    Blobs that the farm has are not sent, so an import that was interrupted is just repeated, and one that was not
    changes nothing when repeated.

    Raises:
        IntegrityError: no trusted key signed an engine (checked before any byte moves), or bytes are wrong.
        InvalidRequest: the bundle is of a version that this program does not know.
        Forbidden: the API key has not the scope admin.
        FarmError: the farm could not be reached for as long as its patience lasts.
    """
    for record in bundle.records:
        verify_record(record, trusted)
    sending = _Sending(farm, bundle, progress)
    for record in bundle.records:
        there = _there(farm, record)
        if there is None:
            sending.send(record)
        yield there or farm.import_engine(record, trusted.pems)


def _there(farm: Farm, record: EngineRecord) -> ImportResult | None:
    """The engine that the farm serves under this key already."""
    try:
        found = farm.engine(record.key)
    except (NotFound, Gone):
        return None
    same = found.manifest == record.manifest.digest
    return ImportResult(outcome="there" if same else "kept", engine=EngineSummary.model_validate(found.model_dump()))


class _Sending:
    """The blobs of a bundle on their way. Progress counts each once, whether it was sent or was there."""

    def __init__(self, farm: Farm, bundle: Bundle, progress: OnProgress | None) -> None:
        self._farm, self._bundle, self._progress = farm, bundle, progress
        self._done: dict[Digest, int] = {}  # bytes
        self._total = sum(bundle.sizes.values())

    def send(self, record: EngineRecord) -> None:
        missing = self._farm.missing_blobs(record.sizes)
        for digest, size in record.sizes.items():
            if digest in missing:
                self._put(digest, size)
            self._tell(digest, size)

    def _put(self, digest: Digest, size: int) -> None:
        """Each try sends the blob from its start; one that got farther than all before it counts as progress."""
        farthest = 0
        for attempt in retrying(self._farm.patience):
            with attempt:
                try:
                    self._farm.put_blob(digest, size, self._chunks(digest))
                except FarmError:
                    if self._done.get(digest, 0) > farthest:
                        farthest = self._done[digest]
                        note_progress(attempt)
                    raise

    def _chunks(self, digest: Digest) -> Iterator[bytes]:
        sent = 0
        for chunk in self._bundle.blob(digest):
            yield chunk
            sent += len(chunk)
            self._tell(digest, sent)

    def _tell(self, digest: Digest, count: int) -> None:
        self._done[digest] = count
        if self._progress:
            self._progress(Progress(Activity.SENDING, sum(self._done.values()), self._total))
