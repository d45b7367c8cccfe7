"""Import a bundle into a farm: send the blobs that its store lacks, then publish each engine by one call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

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
    """Import every engine of `bundle`; yield the result of each as soon as the farm serves it.

    Blobs that the farm has are not sent. An import that was interrupted is therefore repeated, and repeating a
    complete one changes nothing.

    Raises:
        IntegrityError: no trusted key signed an engine (checked before any byte moves), or bytes are wrong.
        InvalidRequest: the bundle is of a version that this program does not read.
        Forbidden: the API key lacks the scope admin.
        FarmError: the farm could not be reached for as long as its patience lasts.
    """
    # All signatures before the first blob: a refused bundle must cost neither hours of sending nor space in the store.
    for record in bundle.records:
        verify_record(record, trusted)
    sender = _Sender(farm, bundle, progress)
    for record in bundle.records:
        try:
            engine = farm.engine(record.key)
        except (NotFound, Gone):
            # Blobs first: the farm publishes an engine only after it has verified all of its bytes.
            sender.send(record)
            yield farm.import_engine(record, trusted.pems)
            continue
        # An engine that is served needs no blob, even if it is the farm's own with other bytes: the farm keeps that.
        # Engines are not reproducible bit by bit, so two farms that built one key rarely have the same bytes.
        outcome: Literal["there", "kept"] = "kept"
        if engine.manifest == record.manifest.digest:
            outcome = "there"
        yield ImportResult(outcome=outcome, engine=EngineSummary.model_validate(engine.model_dump()))


class _Sender:
    """Sends blobs of a bundle. Progress counts each blob once, whether it was sent or the farm had it."""

    def __init__(self, farm: Farm, bundle: Bundle, progress: OnProgress | None) -> None:
        self._farm = farm
        self._bundle = bundle
        self._progress = progress
        self._sent: dict[Digest, int] = {}  # bytes of each blob
        self._total = sum(bundle.sizes.values())

    def send(self, record: EngineRecord) -> None:
        """Send the blobs of `record` that the farm lacks."""
        # Asked for each record, not for the bundle: a blob of two engines is sent with the first of them.
        missing = self._farm.missing_blobs(record.sizes)
        for digest, size in record.sizes.items():
            if digest in missing:
                self._send_blob(digest, size)
            self._report(digest, size)

    def _send_blob(self, digest: Digest, size: int) -> None:
        farthest = 0  # bytes
        for attempt in retrying(self._farm.patience):
            with attempt:
                try:
                    self._farm.put_blob(digest, size, self._chunks(digest))
                except FarmError:
                    # A blob is sent from its first byte again. A link that is cut now and then may need many tries,
                    # so patience is measured from the last try that came farther than those before.
                    position = self._sent.get(digest, 0)
                    if position > farthest:
                        farthest = position
                        note_progress(attempt)
                    raise

    def _chunks(self, digest: Digest) -> Iterator[bytes]:
        sent = 0
        for chunk in self._bundle.blob(digest):
            yield chunk
            sent += len(chunk)  # counted once the connection has asked for the next chunk, so has taken this one
            self._report(digest, sent)

    def _report(self, digest: Digest, sent: int) -> None:
        self._sent[digest] = sent
        # A blob that is sent again counts from its first byte, so the sum can go back.
        if self._progress:
            self._progress(Progress(Activity.SENDING, sum(self._sent.values()), self._total))
