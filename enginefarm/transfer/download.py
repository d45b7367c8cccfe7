"""The files of an engine: fetched in parts over several connections, checked as they arrive.

Nothing here gives a file its final place: `fetch` does, once every file of the engine is whole.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import httpx

from enginefarm.client.backoff import Backoff
from enginefarm.client.byte_client import Answer
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, EnginefarmError, FarmError, IntegrityError, NotFound
from enginefarm.transfer.partial_file import PartialFile
from enginefarm.transfer.rate_limit import RateLimit
from enginefarm.wire.bodies import Engine

_RENEWALS = 2  # fresh links tried in a row before a refusal is believed
_RESTARTS = 2  # times a file is begun again because its bytes were wrong
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_Piece = tuple[PartialFile, int]


class Stopped(Exception):
    """Another connection failed, or the caller gave up: this one ended early and says nothing new."""


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

    def report(self, path: str) -> str:
        """What the farm finds when it is told that a file came wrong. One that is old, or away, finds nothing."""
        try:
            found = self._farm.report_damage(self._key, [path])
        except EnginefarmError:
            return ""
        if not found.damaged:
            return "; the farm has the right bytes: something on the way changed them"
        return "; the farm's own are damaged: it serves this engine no more, and a submit builds it anew"


def download(
    farm: Farm, links: Links, files: Sequence[PartialFile], *, connections: int, limit: RateLimit | None = None
) -> None:
    """Bring every file to the exact bytes of its entry, going on from what is there; the first failure ends all.

    Raises:
        IntegrityError: the bytes were wrong, again after starting over.
        EnginefarmError: what the farm refused with, or that it could not be reached for too long.
    """
    pieces, stop = _Pieces(files), threading.Event()
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="pull") as pool:
        running = [pool.submit(_Connection(farm, links, pieces, stop, limit).run) for _ in range(connections)]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            # Also when the caller is interrupted: no thread may write once the claim is given up.
            stop.set()
            pieces.close()
            pool.shutdown(cancel_futures=True)
    failures = [error for future in running if not future.cancelled() and (error := future.exception())]
    for error in failures:
        if not isinstance(error, Stopped):
            raise error


class _Pieces:
    """Parts still to be fetched. A file that turns out to be wrong puts all of its parts back."""

    def __init__(self, files: Sequence[PartialFile]) -> None:
        # The largest first, so that none is left to run alone at the end.
        self._open = sorted(files, key=lambda file: -file.entry.size)
        self._waiting = deque(piece for file in self._open for piece in _missing(file))
        self._unhashed = deque(self._open)  # what an earlier pull left is hashed by whoever is free
        self._changed = threading.Condition()
        self._closed = False

    def __iter__(self) -> Iterator[_Piece | PartialFile]:
        """For one connection: a part to fetch, or a file to check as far as it is here. Ends when all files have."""
        while (piece := self._next()) is not None:
            yield piece

    def _next(self) -> _Piece | PartialFile | None:
        with self._changed:
            while not self._closed and self._open:
                if self._unhashed:
                    return self._unhashed.popleft()
                if self._waiting:
                    return self._waiting.popleft()
                self._changed.wait()
        return None

    def done(self, file: PartialFile) -> None:
        with self._changed:
            self._open.remove(file)
            self._changed.notify_all()

    def again(self, file: PartialFile) -> None:
        with self._changed:
            self._waiting.extendleft(_missing(file))  # at once: it may be wrong for good, and then all else is in vain
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _missing(file: PartialFile) -> Iterator[_Piece]:
    return ((file, number) for number in file.parts if not file.is_whole(number))


class _Connection:
    """One of several that fetch an engine's parts side by side."""

    def __init__(
        self, farm: Farm, links: Links, pieces: _Pieces, stop: threading.Event, limit: RateLimit | None
    ) -> None:
        self._farm, self._links, self._pieces, self._stop, self._limit = farm, links, pieces, stop, limit

    def run(self) -> None:
        for piece in self._pieces:
            file = piece if isinstance(piece, PartialFile) else piece[0]
            try:
                if not isinstance(piece, PartialFile):
                    self._fetch(*piece)
                self._check(file)
            except (IntegrityError, NotFound) as error:
                raise type(error)(error.detail + self._links.report(file.entry.path)) from error

    def _check(self, file: PartialFile) -> None:
        try:
            if file.check(self._stop.is_set):
                self._pieces.done(file)
        except IntegrityError:
            if file.restarts == _RESTARTS or not file.entry.size:  # of nothing, nothing can come again
                raise
            file.restart()
            self._pieces.again(file)

    def _fetch(self, file: PartialFile, number: int) -> None:
        trouble = _Trouble(self._farm.patience)
        while not file.is_whole(number):
            url = self._links.of(file.entry.path)
            try:
                self._receive(url, file, number)
            except IntegrityError as error:
                file.begin_again(number)
                trouble.wrong_bytes(error)
            except CallerError as error:
                trouble.refused(error)
                self._renew(file.entry.path, url, trouble)
            except FarmError as error:
                trouble.got_to(file.position(number))
                self._pause(error, trouble)
        file.part_done(number)

    def _renew(self, path: str, refused: str, trouble: _Trouble) -> None:
        """Links often expire while the farm is away: that it was away is why the pull took so long."""
        while True:
            try:
                return self._links.renew(path, refused)
            except FarmError as error:
                self._pause(error, trouble)

    def _pause(self, error: FarmError, trouble: _Trouble) -> None:
        if self._stop.wait(trouble.unreachable(error)):
            raise Stopped from error

    def _receive(self, url: str, file: PartialFile, number: int) -> None:
        """Append what is missing of a part. Ends without an error only if the answer was as long as promised."""
        start, end, size = file.position(number), file.end(number), file.entry.size
        last = "" if end == size else str(end - 1)
        headers = {"Accept-Encoding": "identity"}
        if start or last:
            headers["Range"] = f"bytes={start}-{last}"
        with self._farm.bytes(url, headers=headers) as answer:
            skip = _skipped(file, number, answer)
            for chunk in answer.chunks:
                if self._stop.is_set():
                    raise Stopped
                if self._limit:
                    self._limit.take(len(chunk), self._stop)
                skip, useful = max(0, skip - len(chunk)), chunk[skip:]
                room = end - file.position(number)
                if len(useful) > room and (end == size or answer.status == httpx.codes.PARTIAL_CONTENT):
                    raise IntegrityError(f"{file.entry.path}: got more than the {size} bytes its manifest names")
                file.append(number, useful[:room])
                if len(useful) > room:
                    return
        if not file.is_whole(number):
            at = file.position(number)
            raise FarmError(f"{file.entry.path}: the answer ended after {at} of {end} bytes")


def _skipped(file: PartialFile, number: int, answer: Answer) -> int:
    """How many bytes of the body come before those that were asked for: a server may answer with everything."""
    path, size, start = file.entry.path, file.entry.size, file.position(number)
    if answer.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise IntegrityError(f"{path}: the store has fewer bytes than the {size} it should")
    if answer.status == httpx.codes.OK:
        return start
    answered = answer.headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(answered)
    if answer.status != httpx.codes.PARTIAL_CONTENT or not found:
        raise FarmError(f"{path}: unexpected answer {answer.status} {answered}".rstrip())
    if int(found[1]) != start or found[3] not in {"*", str(size)}:
        raise IntegrityError(f"{path}: asked for bytes from {start} of {size}, got {answered!r}")
    return 0


class _Trouble:
    """What went wrong with one part since it last got on, and whether that is enough to give up."""

    def __init__(self, patience: float) -> None:
        self._backoff = Backoff(patience)
        self._farthest = 0  # bytes; a server that begins anew each time gets nowhere by sending them again
        self._refusals = 0
        self._restarts = 0

    def got_to(self, position: int) -> None:
        if position > self._farthest:
            self._farthest, self._refusals = position, 0
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
