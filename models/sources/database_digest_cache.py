"""The digests of `file:` models, kept in the catalogue: a 70 GB checkpoint is read once, not once per restart."""

from __future__ import annotations

from enginefarm.contract.digest import Digest
from models.catalogue.database import Database
from models.catalogue.rows import FileDigestRow
from models.catalogue.upsert import upsert
from models.sources.digest_cache import FileStamp, MemoryDigestCache


class CatalogueDigestCache:
    """A DigestCache in two layers: this process's memory, then the table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._memory = MemoryDigestCache()

    def get(self, stamp: FileStamp) -> Digest | None:
        known = self._memory.get(stamp)
        if known is None:
            with self._database.read() as session:
                row = session.get(FileDigestRow, stamp.path)
                known = row.digest if row is not None and row.stamp == _text(stamp) else None
            if known is not None:
                self._memory.put(stamp, known)
        return known

    def put(self, stamp: FileStamp, digest: Digest) -> None:
        self._memory.put(stamp, digest)
        with self._database.write() as session:
            upsert(session, FileDigestRow, {"path": stamp.path, "stamp": _text(stamp), "digest": digest})


def _text(stamp: FileStamp) -> str:
    return f"{stamp.inode}:{stamp.size}:{stamp.mtime_ns}"
