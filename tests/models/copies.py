"""Fill a catalogue by copying the rows that the farm wrote for one engine."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, inspect, select

from enginefarm.contract import digest
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, BlobRow, EngineRow, ManifestFileRow, ManifestRow, Row

_PAGE = 1000
_UNREGISTERED = {"repository": None, "oci_manifest": None, "oci_config": None, "registered_at": None}


def copy_engine(database: Database, key: str, count: int, *, models: int = 10, name: str = "copy") -> None:
    """Add `count` copies of an engine, with an action, a manifest and a file of their own, of so many models."""
    with database.read() as session:
        action = _values(session.get_one(ActionRow, key))
        engine = _values(session.get_one(EngineRow, key)) | _UNREGISTERED
        manifest = _values(session.get_one(ManifestRow, engine["manifest"]))
        of_engine = ManifestFileRow.manifest == engine["manifest"]
        file = _values(session.execute(select(ManifestFileRow).where(of_engine).limit(1)).scalar_one())
        blob = _values(session.get_one(BlobRow, file["blob"]))
    for start in range(0, count, _PAGE):
        copied_names = [f"{name} {number}" for number in range(start, min(start + _PAGE, count))]
        keys = [digest.of_bytes(copied.encode()).removeprefix("sha256:") for copied in copied_names]
        digests = [digest.of_bytes(f"file of {copied}".encode()) for copied in copied_names]
        manifests = [digest.of_bytes(f"manifest of {copied}".encode()) for copied in copied_names]
        with database.write() as session:
            session.execute(insert(ActionRow), [action | {"key": copied} for copied in keys])
            session.execute(insert(BlobRow), [blob | {"digest": copied} for copied in digests])
            session.execute(insert(ManifestRow), [manifest | {"digest": copied} for copied in manifests])
            session.execute(
                insert(ManifestFileRow),
                [file | {"manifest": of, "blob": blob_of} for of, blob_of in zip(manifests, digests, strict=True)],
            )
            engines = [
                engine | {"key": copied, "manifest": of, "model": f"{engine['model']}-{number % models}"}
                for number, (copied, of) in enumerate(zip(keys, manifests, strict=True))
            ]
            session.execute(insert(EngineRow), engines)


def _values(row: Row) -> dict[str, Any]:
    return {attribute.key: getattr(row, attribute.key) for attribute in inspect(type(row)).column_attrs}
