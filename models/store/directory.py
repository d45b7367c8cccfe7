"""A store in a folder that every process of the farm sees."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from enginefarm import digest as digests
from enginefarm.digest import CHUNK, Digest, read_chunks, verified
from enginefarm.errors import NotFound, StoreUnavailable
from models.store.links import LinkSigner
from models.store.protocol import digest_of, fetch_verified, new_file, object_name, verify_all


class DirectoryStore:
    def __init__(self, root: Path, signer: LinkSigner) -> None:
        self._root = root
        self._signer = signer

    def prepare(self) -> None:
        with _translated():
            self._root.mkdir(parents=True, exist_ok=True)

    def put(self, source: Path, digest: Digest, size: int) -> None:
        if self.stat(digest) == size:
            return
        with _translated(), new_file(self._path(digest)) as stream:
            # Hashed on the way in: what took the name was read from the very bytes that were written.
            for chunk in verified(read_chunks(source), digest, size, what=source.name):
                stream.write(chunk)

    def put_bytes(self, data: bytes) -> Digest:
        digest = digests.of_bytes(data)
        if self.stat(digest) != len(data):
            with _translated(), new_file(self._path(digest)) as stream:
                stream.write(data)
        return digest

    def stat(self, digest: Digest) -> int | None:
        with _translated():
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, digest: Digest, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with _translated(digest), self._path(digest).open("rb") as stream:
            stream.seek(start)
            left = length
            while left is None or left > 0:
                chunk = stream.read(CHUNK if left is None else min(CHUNK, left))
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk

    def fetch(self, digest: Digest, size: int, destination: Path) -> None:
        fetch_verified(self, digest, size, destination)

    def verify(self, digest: Digest, size: int) -> None:
        verify_all(self, digest, size)

    def delete(self, digest: Digest) -> None:
        with _translated():
            self._path(digest).unlink(missing_ok=True)

    def list(self) -> Iterator[tuple[Digest, int]]:
        for path in self._root.glob("blobs/sha256/*/*"):
            if not path.name.startswith("."):
                yield digest_of(path.name), path.stat().st_size

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        return self._signer.link(digest, filename=filename, expires=expires)

    def check_link(self, digest: Digest, *, filename: str, expires: int, signature: str) -> Path:
        """The file behind a link that we signed.

        Raises:
            Forbidden: we did not sign it, or its time is over.
            NotFound
        """
        self._signer.check(digest, filename=filename, expires=expires, signature=signature)
        path = self._path(digest)
        if not path.is_file():
            raise _not_found(digest)
        return path

    def ping(self) -> None:
        with _translated(), new_file(self._root / ".ping") as stream:
            stream.write(b"ping")

    def _path(self, digest: Digest) -> Path:
        return self._root / object_name(digest)


@contextmanager
def _translated(digest: Digest | None = None) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if digest is None:
            raise
        raise _not_found(digest) from error
    except OSError as error:
        reason = {
            errno.ENOSPC: "its disk is full",
            errno.EDQUOT: "its quota is used up",
            errno.EROFS: "it is read-only",
        }
        raise StoreUnavailable(
            f"the store's folder cannot be used: {reason.get(error.errno or 0, error.strerror)}"
        ) from error


def _not_found(digest: Digest) -> NotFound:
    return NotFound(f"the store has no blob {digest}")
