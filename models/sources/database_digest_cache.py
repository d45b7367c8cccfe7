"""Keep the digests of `file:` models in the catalogue: a 70 GB model is hashed once, not once a restart."""

from __future__ import annotations

from enginefarm.contract.digest import Digest
from models.catalogue.database import Database
from models.catalogue.rows import FileDigestRow
from models.catalogue.upsert import upsert
from models.sources.digest_cache import FileStamp, MemoryDigestCache


class DatabaseDigestCache:
    """A DigestCache in two layers: the memory of this process, then the catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._memory = MemoryDigestCache()

    def get(self, stamp: FileStamp) -> Digest | None:
        """See `DigestCache.get`."""
        digest = self._memory.get(stamp)
        if digest is not None:
            return digest
        # Another process of the farm may have hashed the file.
        with self._database.read() as session:
            row = session.get(FileDigestRow, stamp.path)
            if row is None or row.stamp != _column_text(stamp):
                return None
            digest = row.digest
        self._memory.put(stamp, digest)
        return digest

    def put(self, stamp: FileStamp, digest: Digest) -> None:
        """See `DigestCache.put`."""
        # Memory first: minutes of hashing are not lost for this process if the database is away.
        self._memory.put(stamp, digest)
        with self._database.write() as session:
            upsert(session, FileDigestRow, {"path": stamp.path, "stamp": _column_text(stamp), "digest": digest})


def _column_text(stamp: FileStamp) -> str:
    # Without the path, which is the row's primary key.
    return f"{stamp.inode}:{stamp.size}:{stamp.mtime_ns}"
