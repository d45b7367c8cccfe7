"""Engines of a farm, into a bundle: fetched as a pull fetches them, checked, and written in one go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from enginefarm.bundle.archive import write_bundle
from enginefarm.client.farm import Farm
from enginefarm.contract.digest import Digest, read_chunks
from enginefarm.contract.errors import Conflict, FarmError, NotFound
from enginefarm.transfer.file_lock import locked
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.progress import Activity, OnProgress, Progress
from enginefarm.transfer.pull import Transfer, pull
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.trust.provenance import verify_record
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of
from enginefarm.wire.engine_record import EngineRecord

_NO_LIMIT = 1 << 62  # bytes


def export(
    farm: Farm,
    engines: Sequence[Engine],
    target: Path,
    *,
    trusted: TrustedKeys | None = None,
    transfer: Transfer | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Write `engines` to the bundle `target`, which appears whole or not at all, and return it, resolved.

    What is fetched waits in `.<name>.engines` beside it, so twice the room is needed for a while; an interrupted
    export goes on from there. `trusted` keys must have signed every engine; the farm's own if not given.

    Raises:
        NotFound: the farm does not sign.
        Conflict: `target` exists.
        IntegrityError: no trusted key signed an engine, or the bytes are wrong.
        And what `pull` raises.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    engines = list({engine.key: engine for engine in engines}.values())
    with locked(target, on_wait=lambda: progress and progress(Progress(Activity.WAITING, 0, 0))):
        if os.path.lexists(target):
            raise Conflict(f"{target} exists: name another file, or remove it first")
        trusted = trusted or _own_keys(farm)
        records = [_record(farm, engine, trusted) for engine in engines]
        staging = target.with_name(f".{target.name}.engines")
        staging.mkdir(exist_ok=True)
        # A cache of its own, so that what engines share is fetched once.
        transfer = replace(transfer or Transfer(), cache=Cache(staging / "cache", limit=_NO_LIMIT))
        for engine in engines:
            pull(farm, engine, staging / engine.key, transfer=transfer, any_platform=True, progress=progress)
        _write(target, records, staging, progress)
        shutil.rmtree(staging)
    return target


def _own_keys(farm: Farm) -> TrustedKeys:
    keys = farm.signing_keys()
    if not keys:
        raise NotFound(
            f"the farm at {farm.url} does not sign, and only what is signed can be moved: its operator makes a key "
            "with `python -m api.signing create FILE`. For engines that were imported there, name the key that signed "
            "them with --trusted-key"
        )
    return TrustedKeys.of_pems([key.public_key for key in keys])


def _record(farm: Farm, engine: Engine, trusted: TrustedKeys) -> EngineRecord:
    """Checked as whoever imports it will check it."""
    attestation = farm.attestation(engine.key)
    if not engine.checkpoint_document:
        raise FarmError(f"the farm at {farm.url} does not tell what engine {engine.key[:12]} was made from: upgrade it")
    record = EngineRecord(
        key=engine.key,
        manifest=manifest_of(engine),
        checkpoint_document=engine.checkpoint_document,
        attestation=attestation,
    )
    verify_record(record, trusted)
    return record


def _write(target: Path, records: Sequence[EngineRecord], staging: Path, progress: OnProgress | None) -> None:
    sources = {entry.digest: staging / record.key / entry.path for record in records for entry in record.manifest.files}
    sizes = {digest: size for record in records for digest, size in record.sizes.items()}
    done, total = 0, sum(sizes.values())

    def chunks_of(digest: Digest) -> Iterator[bytes]:
        nonlocal done
        for chunk in read_chunks(sources[digest]):
            done += len(chunk)
            if progress:
                progress(Progress(Activity.WRITING, done, total))
            yield chunk

    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as stream:
            write_bundle(stream, records, chunks_of)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
