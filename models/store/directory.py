"""A store in a folder that every process sees: `blobs/sha256/ab/<hex>`, and `staging/` for what is on its way."""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from enginefarm.contract.digest import CHUNK, Digest
from enginefarm.contract.errors import NotFound, StoreUnavailable
from enginefarm.transfer.atomic_file import sync_directory, write_atomically
from models.store.links import Links
from models.store.protocol import Store, blob_digest, blob_name, end_of_range

_REMEDIES = {
    errno.ENOSPC: "free some space there, or give it more",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EACCES: "let the farm's user read and write there",
    errno.EPERM: "let the farm's user read and write there",
    errno.EROFS: "mount it for writing",
    errno.ENOENT: "mount it, or prepare it if it is new",
}


class DirectoryStore(Store):
    """A folder that is missing, perhaps because its volume is not mounted, is never made again in passing."""

    def __init__(self, root: Path, links: Links) -> None:
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._staging = root / "staging"
        self._links = links

    def prepare(self) -> None:
        with self._explained():
            self._staging.mkdir(parents=True, exist_ok=True)
            for shard in range(256):
                (self._blobs / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
            for folder in (self._blobs, self._blobs.parent, self._root):
                sync_directory(folder)

    def ping(self) -> None:
        with self._explained():
            self._blobs.stat()
            probe = self._staging / f".{secrets.token_hex(16)}.probe"
            probe.touch(exist_ok=False)
            probe.unlink()

    def stat(self, digest: Digest) -> int | None:
        path = self._path(digest)
        with self._explained():
            try:
                return path.stat().st_size
            except FileNotFoundError:
                path.parent.stat()  # as in `_open`
                return None

    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        end = end_of_range(start, length)
        with self._explained(), self._open(digest) as stream:
            stream.seek(start)
            while wanted := CHUNK if end is None else min(CHUNK, end - stream.tell()):
                if not (chunk := stream.read(wanted)):
                    return
                yield chunk

    def delete(self, digest: Digest) -> None:
        path = self._path(digest)
        with self._explained():
            path.unlink(missing_ok=True)
            sync_directory(path.parent)

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        blob_name(digest)
        return self._links.make(digest, filename=filename, expires=expires)

    def check_link(self, digest: Digest, *, filename: str, expires: int, signature: str) -> Path:
        """The file to serve for a link that `link` made.

        Raises:
            Forbidden: it did not, or the link has expired.
            NotFound: the blob is gone.
        """
        self._links.check(digest, filename=filename, expires=expires, signature=signature)
        if self.stat(digest) is None:
            raise NotFound(f"blob {digest} is not in the store")
        return self._path(digest)

    def list(self) -> Iterator[tuple[Digest, int]]:
        with self._explained():
            self._blobs.stat()
            for path in self._blobs.glob("??/*"):
                digest = blob_digest(path.relative_to(self._root).as_posix())
                if digest is not None and (size := self.stat(digest)) is not None:
                    yield digest, size

    def abort_stale(self, age: timedelta) -> int:
        limit, removed = time.time() - age.total_seconds(), 0
        with self._explained():
            for path in self._staging.iterdir():
                with suppress(FileNotFoundError):  # its writer has just named or removed it
                    if path.stat().st_mtime < limit:
                        path.unlink()
                        removed += 1
        return removed

    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        with self._explained():
            write_atomically(chunks, self._path(digest), staging=self._staging)

    def _open(self, digest: Digest) -> BinaryIO:
        path = self._path(digest)
        try:
            return path.open("rb")
        except FileNotFoundError:
            path.parent.stat()  # "no such blob" is only true while the store itself is there
            raise NotFound(f"blob {digest} is not in the store") from None

    def _path(self, digest: Digest) -> Path:
        return self._root / blob_name(digest)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "look at the system's log for what is wrong with that disk")
            raise StoreUnavailable(f"the store's folder {self._root}: {error.strerror}; {remedy}") from error
