"""Store small blobs in tests."""

from __future__ import annotations

from enginefarm.contract.digest import Digest, of_bytes
from models.store import Store


def put_bytes(store: Store, content: bytes) -> Digest:
    """Store `content`, unless a blob of its digest and size is there; returns the digest."""
    digest = of_bytes(content)
    if store.stat(digest) != len(content):
        store.put_stream(iter([content]), digest, len(content))
    return digest
