"""One file of an engine: fetched in as many pieces as the network makes of it, checked as it arrives.

Nothing here gives a file its final place: `fetch` does, once every file of the engine is whole.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx

from enginefarm.backoff import Backoff
from enginefarm.client import Farm
from enginefarm.connection import accepted
from enginefarm.digest import CHUNK
from enginefarm.errors import CallerError, FarmError, IntegrityError
from enginefarm.manifest import FileEntry
from enginefarm.wire import Engine

_RENEWALS = 2  # fresh links tried in a row before a refusal is believed
_RESTARTS = 2  # times a file is begun again because its bytes were wrong
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Stopped(Exception):
    """Another file failed, or the caller gave up: this download ended early and says nothing new."""


class Links:
    """Where each file of an engine can be read now. Links expire, so they can be asked for anew."""

    def __init__(self, farm: Farm, engine: Engine) -> None:
        self._farm = farm
        self._key = engine.key
        self._manifest = engine.manifest
        self._urls = _urls(engine)
        self._renewing = threading.Lock()

    def of(self, path: str) -> str:
        return self._urls[path]

    def renew(self, path: str, refused: str) -> None:
        """Replace all links, unless another thread replaced the `refused` one already."""
        with self._renewing:
            if self._urls[path] != refused:
                return
            engine = self._farm.engine(self._key)
            if engine.manifest != self._manifest:
                raise IntegrityError(f"engine {self._key} changed while it was fetched: an engine never does")
            self._urls = _urls(engine)


def download(
    farm: Farm,
    links: Links,
    entry: FileEntry,
    target: Path,
    *,
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Bring `target` to the exact bytes of `entry`, going on from what is there.

    `on_bytes` is told how many bytes came, and a negative number when some turned out to be wrong.

    Raises:
        IntegrityError: the bytes were wrong, again after starting over.
        EnginefarmError: what the farm refused with, or that it could not be reached for too long.
    """
    with _Partial(target, entry, on_bytes, stop) as partial:
        trouble = _Trouble(farm.patience)
        while True:
            url = links.of(entry.path)
            try:
                _receive(farm, url, partial)
                return partial.finish()
            except IntegrityError as error:
                partial.restart()
                trouble.wrong_bytes(error)
            except CallerError as error:
                trouble.refused(error)
                links.renew(entry.path, url)
            except FarmError as error:
                trouble.got_to(partial.size)
                if stop.wait(trouble.unreachable(error)):
                    raise Stopped from error


def _receive(farm: Farm, url: str, partial: _Partial) -> None:
    """Append what is missing. Ends without an error only if the answer was as long as promised."""
    if partial.size == partial.entry.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
    with farm.stream(url, headers=headers) as response:
        _position(partial, response)
        for chunk in response.iter_raw():  # as it comes: what waited to fill a larger piece would be lost with the line
            partial.append(chunk)
    if partial.size < partial.entry.size:
        raise FarmError(f"{partial.entry.path}: the answer ended after {partial.size} of {partial.entry.size} bytes")


def _position(partial: _Partial, response: httpx.Response) -> None:
    """Make the body of `response` what comes next: a server may answer with everything, or with another range."""
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise IntegrityError(f"{partial.entry.path}: the store has fewer bytes than the {partial.entry.size} it should")
    if accepted(response).status_code == httpx.codes.OK:
        partial.restart()
    else:
        _check_range(partial, response)


def _check_range(partial: _Partial, response: httpx.Response) -> None:
    answered = response.headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(answered)
    if response.status_code != httpx.codes.PARTIAL_CONTENT or not found:
        raise FarmError(f"{partial.entry.path}: unexpected answer {response.status_code} {answered}".rstrip())
    if int(found[1]) != partial.size or found[2] not in {"*", str(partial.entry.size)}:
        raise IntegrityError(
            f"{partial.entry.path}: asked for bytes from {partial.size} of {partial.entry.size}, got {answered!r}"
        )


class _Partial:
    """The bytes of one file that are here already. Its hash and size are always those of what was written."""

    def __init__(self, target: Path, entry: FileEntry, on_bytes: Callable[[int], None], stop: threading.Event) -> None:
        self.entry = entry
        self.size = 0
        self._hasher = hashlib.sha256()
        self._on_bytes = on_bytes
        self._stop = stop
        # Never through a link: somebody may have laid one where this file is about to be.
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(descriptor, "r+b")

    def __enter__(self) -> Self:
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunk: bytes) -> None:
        if self._stop.is_set():
            raise Stopped
        if self.size + len(chunk) > self.entry.size:
            raise IntegrityError(f"{self.entry.path}: got more than the {self.entry.size} bytes its manifest names")
        self._file.write(chunk)
        self._count(chunk)

    def restart(self) -> None:
        self._on_bytes(-self.size)
        self._file.seek(0)
        self._file.truncate()
        self.size, self._hasher = 0, hashlib.sha256()

    def finish(self) -> None:
        """The file is whole, right, and on the disk; or IntegrityError."""
        actual = "sha256:" + self._hasher.hexdigest()
        if not hmac.compare_digest(actual, self.entry.digest):
            raise IntegrityError(f"{self.entry.path}: expected {self.entry.digest}, got {actual}")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _take_up(self) -> None:
        """Hash what an earlier try left; more bytes than the file has are none of its bytes."""
        if os.fstat(self._file.fileno()).st_size > self.entry.size:
            self._file.truncate(0)
        while chunk := self._file.read(CHUNK):
            if self._stop.is_set():
                raise Stopped
            self._count(chunk)

    def _count(self, chunk: bytes) -> None:
        self._hasher.update(chunk)
        self.size += len(chunk)
        self._on_bytes(len(chunk))


class _Trouble:
    """What went wrong with one file since it last got on, and whether that is enough to give up."""

    def __init__(self, patience: float) -> None:
        self._backoff = Backoff(patience)
        self._farthest = 0  # bytes; a server that begins anew each time gets nowhere by sending them again
        self._refusals = 0
        self._restarts = 0

    def got_to(self, size: int) -> None:
        if size > self._farthest:
            self._farthest, self._refusals = size, 0
            self._backoff.reset()

    def wrong_bytes(self, error: IntegrityError) -> None:
        self._restarts += 1
        self._farthest = 0
        if self._restarts > _RESTARTS:
            raise error

    def refused(self, error: CallerError) -> None:
        self._refusals += 1
        if self._refusals > _RENEWALS:
            raise error

    def unreachable(self, error: FarmError) -> float:
        """Seconds to pause."""
        return self._backoff.after(error)


def _urls(engine: Engine) -> dict[str, str]:
    return {file.path: file.url for file in engine.contents}
