"""Export engines of a farm to a bundle: pull them, verify them, and write one file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from enginefarm.bundle.archive import write_bundle
from enginefarm.client.farm import Farm
from enginefarm.contract.digest import Digest, read_chunks
from enginefarm.contract.errors import Conflict, FarmError, NotFound
from enginefarm.transfer.file_lock import locked
from enginefarm.transfer.new_files import open_new, own_directory, publish_new
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.progress import Activity, OnProgress, Progress
from enginefarm.transfer.pull import Transfer, pull
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.trust.provenance import verify_record
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of
from enginefarm.wire.engine_record import EngineRecord

_NO_LIMIT = 1 << 62  # bytes; the cache of an export must not evict a file before the bundle has it


def export(
    farm: Farm,
    engines: Sequence[Engine],
    target: Path,
    *,
    trusted: TrustedKeys | None = None,
    transfer: Transfer | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Write `engines` to the bundle `target` and return its absolute path.

    `target` appears complete or not at all. Pulled files stay in `.<name>.engines` next to it until then, so an
    interrupted export continues where it stopped, and twice the bundle's size is needed on the disk for a while.

    Args:
        trusted: keys of which one must have signed each engine; the farm's own keys if None.

    Raises:
        NotFound: the farm signs nothing.
        Conflict: `target` exists.
        IntegrityError: no trusted key signed an engine, or its bytes are wrong.
        FarmError: the farm cannot be reached, or is too old to state what an engine was built from.
        OSError: the disk refuses.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    # A caller may name one engine twice, by its key and by a build; a bundle has every engine once.
    engines = list({engine.key: engine for engine in engines}.values())
    with locked(target, on_wait=lambda: progress and progress(Progress(Activity.WAITING, 0, 0))):
        if os.path.lexists(target):
            raise Conflict(f"{target} exists: name another file, or remove it first")
        # Records first: an engine that an import would refuse is refused before gigabytes are pulled.
        records = _verified_records(farm, engines, trusted)
        staging = target.with_name(f".{target.name}.engines")
        own_directory(staging)
        # The export has a cache of its own, so that a file of several engines is pulled once, whatever the node's
        # cache keeps or evicts.
        transfer = replace(transfer or Transfer(), cache=Cache(staging / "cache", limit=_NO_LIMIT))
        for engine in engines:
            pull(farm, engine, staging / engine.key, transfer=transfer, any_platform=True, progress=progress)
        _write(target, records, staging, progress)
        shutil.rmtree(staging)
    return target


def _verified_records(farm: Farm, engines: Iterable[Engine], trusted: TrustedKeys | None) -> list[EngineRecord]:
    """Return the records of `engines`, checked exactly as the importing farm will check them."""
    if trusted is None:
        keys = farm.signing_keys()
        if not keys:
            raise NotFound(
                f"the farm at {farm.url} does not sign, and only signed engines can be exported: its operator makes a "
                "key with `python -m api.signing create FILE`. For engines that were imported there, name the key of "
                "the farm that built them with --trusted-key"
            )
        trusted = TrustedKeys.of_pems([key.public_key for key in keys])
    records = []
    for engine in engines:
        attestation = farm.attestation(engine.key)
        # An older farm leaves the field out. Without it, the importing farm cannot check the engine's `convert` key.
        if not engine.checkpoint_document:
            raise FarmError(
                f"the farm at {farm.url} does not state what engine {engine.key[:12]} was built from: upgrade it"
            )
        record = EngineRecord(
            key=engine.key,
            manifest=manifest_of(engine),
            checkpoint_document=engine.checkpoint_document,
            attestation=attestation,
            verification_summary=farm.verification_summary(engine.key),
        )
        verify_record(record, trusted)
        records.append(record)
    return records


def _write(target: Path, records: Sequence[EngineRecord], staging: Path, progress: OnProgress | None) -> None:
    """Write the bundle from the pulled directories `staging/<key>`."""
    sources: dict[Digest, Path] = {}
    sizes: dict[Digest, int] = {}
    for record in records:
        sizes.update(record.sizes)
        for entry in record.manifest.files:
            sources[entry.digest] = staging / record.key / entry.path
    # Equal files of several engines are written once, and counted once.
    total = sum(sizes.values())
    written = 0

    def chunks_of(digest: Digest) -> Iterator[bytes]:
        nonlocal written
        for chunk in read_chunks(sources[digest]):
            written += len(chunk)
            if progress:
                progress(Progress(Activity.WRITING, written, total))
            yield chunk

    partial = target.with_name(f".{target.name}.partial")
    try:
        with open_new(partial) as stream:
            write_bundle(stream, records, chunks_of)
            # The bytes reach the disk before the name does: after a power failure, the name must not lead to half a
            # bundle.
            stream.flush()
            os.fsync(stream.fileno())
        publish_new(partial, target)
    finally:
        partial.unlink(missing_ok=True)
