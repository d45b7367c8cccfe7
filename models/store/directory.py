"""A store in a folder that every process of the farm sees.

Blobs are `blobs/sha256/ab/<hex>`; a file that is being written is in `staging/` on the same file system.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

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
    errno.ENOTDIR: "let the URL name a folder",
    errno.ELOOP: "let the URL name a folder",
    errno.ENOENT: "mount it, or run `python -m migrations.upgrade` if it is new",
}


class DirectoryStore(Store):
    """A store in the folder `root`; `links` signs its links, which the API serves."""

    def __init__(self, root: Path, links: Links) -> None:
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._staging = root / "staging"
        self._links = links

    def prepare(self) -> None:
        with self._translate_errors():
            # All 256 directories at once, so that a write never creates one and need not sync its name.
            self._staging.mkdir(parents=True, exist_ok=True)
            for shard in range(256):
                (self._blobs / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
            for folder in (self._blobs, self._blobs.parent, self._root):
                sync_directory(folder)

    def ping(self) -> None:
        with self._translate_errors():
            self._blobs.stat()
            # Only a write shows that the volume is full or mounted read-only. Many processes probe at once, so each
            # takes a name of its own.
            probe = self._staging / f".{secrets.token_hex(16)}.probe"
            probe.touch(exist_ok=False)
            probe.unlink()

    def room(self) -> tuple[int, int]:
        with self._translate_errors():
            usage = shutil.disk_usage(self._staging)
        return usage.total, usage.free

    def stat(self, digest: Digest) -> int | None:
        path = self._path(digest)
        with self._translate_errors():
            try:
                return path.stat().st_size
            except FileNotFoundError:
                path.parent.stat()  # raises if the volume is not mounted: then nothing is known about the blob
                return None

    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        end = end_of_range(start, length)
        path = self._path(digest)
        with self._translate_errors():
            try:
                stream = path.open("rb")
            except FileNotFoundError:
                path.parent.stat()  # raises if the volume is not mounted: only then is "no such blob" not true
                raise NotFound(f"blob {digest} is not in the store") from None
            with stream:
                stream.seek(start)
                while True:
                    next_length = CHUNK
                    if end is not None:
                        next_length = min(CHUNK, end - stream.tell())
                    chunk = stream.read(next_length)
                    if not chunk:
                        return
                    yield chunk

    def delete(self, digest: Digest) -> None:
        path = self._path(digest)
        with self._translate_errors():
            path.unlink(missing_ok=True)
            # A power cut could bring the name back after the catalogue forgot the blob.
            sync_directory(path.parent)

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        blob_name(digest)  # raises for a string that is not a digest
        return self._links.make(digest, filename=filename, expires=expires)

    def check_link(self, digest: Digest, *, filename: str, expires: int, signature: str) -> Path:
        """Return the file to serve for a link that `link` made.

        Raises:
            Forbidden: `link` did not make it, or it has expired.
            NotFound: the blob does not exist any more.
        """
        self._links.check(digest, filename=filename, expires=expires, signature=signature)
        if self.stat(digest) is None:
            raise NotFound(f"blob {digest} is not in the store")
        return self._path(digest)

    def list(self) -> Iterator[tuple[Digest, int]]:
        with self._translate_errors():
            self._blobs.stat()
            for path in self._blobs.glob("??/*"):
                digest = blob_digest(path.relative_to(self._root).as_posix())
                if digest is None:
                    continue
                size = self.stat(digest)
                if size is not None:  # it was deleted meanwhile
                    yield digest, size

    def abort_stale(self, age: timedelta) -> int:
        oldest_allowed = time.time() - age.total_seconds()
        removed = 0
        with self._translate_errors():
            for path in self._staging.iterdir():
                with suppress(FileNotFoundError):  # its writer renamed or removed it meanwhile
                    if path.stat().st_mtime < oldest_allowed:
                        path.unlink()
                        removed += 1
        return removed

    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        with self._translate_errors():
            write_atomically(chunks, self._path(digest), staging=self._staging)

    def _path(self, digest: Digest) -> Path:
        return self._root / blob_name(digest)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "look at the system's log for what is wrong with that disk")
            raise StoreUnavailable(
                f"the store's folder {self._root} (ENGINEFARM_STORE_URL): {error.strerror}; {remedy}"
            ) from error
