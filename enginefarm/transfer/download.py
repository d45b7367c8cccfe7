"""Download the files of an engine in parts, over several connections, and verify them as they arrive.

No file gets its final place here: `pull` renames the directory once every file of the engine is complete.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from http import HTTPStatus

from tenacity import sleep_using_event

from enginefarm.client.connection import StreamedResponse
from enginefarm.client.farm import Farm
from enginefarm.client.retry import note_progress, retrying
from enginefarm.contract.errors import CallerError, EnginefarmError, FarmError, IntegrityError, NotFound
from enginefarm.transfer.partial_file import PartialFile
from enginefarm.transfer.rate_limit import RateLimit
from enginefarm.wire.bodies import Engine

_MAX_REFUSALS = 2  # refused links in a row that are taken as expired; one more is taken as the store's last word
_MAX_RESTARTS = 2  # times that wrong bytes are fetched again: a proxy may have spoiled them, but not for ever
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Part = tuple[PartialFile, int]  # a file and the number of one of its parts


class DownloadStopped(Exception):
    """Another connection failed, or the caller was interrupted; this connection has no news of its own."""


class FileLinks:
    """A URL for each file of an engine. URLs expire while a large engine is fetched, so they can be renewed."""

    def __init__(self, farm: Farm, engine: Engine) -> None:
        self._farm = farm
        self._key = engine.key
        self._manifest = engine.manifest
        self._urls = _urls(engine)
        self._renewal = threading.Lock()

    def url(self, path: str) -> str:
        return self._urls[path]

    def renew(self, path: str, refused_url: str) -> None:
        """Replace all URLs, unless another thread has replaced the refused one already.

        Raises:
            IntegrityError: the engine has other files now.
            FarmError: the farm cannot be reached.
        """
        with self._renewal:
            if self._urls[path] != refused_url:
                return
            engine = self._farm.engine(self._key)
            if engine.manifest != self._manifest:
                raise IntegrityError(f"engine {self._key} changed while it was fetched: an engine never does")
            self._urls = _urls(engine)

    def report_damage(self, path: str) -> str:
        """Report a file that arrived wrong, and return the farm's finding as the end of an error text.

        Empty if the farm cannot be reached or is too old to check.
        """
        try:
            inspection = self._farm.report_damage(self._key, [path])
        except EnginefarmError:
            return ""
        if not inspection.damaged:
            return "; the farm has the right bytes: something on the way changed them"
        return "; the farm's own are damaged: it serves this engine no more, and a submit builds it anew"


def _urls(engine: Engine) -> dict[str, str]:
    return {file.path: file.url for file in engine.contents}


def download(
    farm: Farm, links: FileLinks, files: Sequence[PartialFile], *, connections: int, limit: RateLimit | None = None
) -> None:
    """Complete every file to the exact bytes of its entry. The first failure stops all connections.

    Raises:
        IntegrityError: bytes were wrong, also after they were fetched again.
        EnginefarmError: the farm or the store refused, or could not be reached for too long.
    """
    queue, stop = _WorkQueue(files), threading.Event()
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="pull") as pool:
        futures: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # `ulimit -u`, or a container's limit of processes: fewer connections will do
                for _ in range(connections):
                    futures.append(pool.submit(_Connection(farm, links, queue, stop, limit).run))  # noqa: PERF401  # those that started count
            if not futures:
                _Connection(farm, links, queue, stop, limit).run()
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also when the caller is interrupted: no thread may write after the lock of the destination is released.
            stop.set()
            queue.close()
            pool.shutdown(cancel_futures=True)
    for future in futures:
        if future.cancelled():
            continue
        error = future.exception()
        # The first failure stopped the others; what they report is its consequence.
        if error is not None and not isinstance(error, DownloadStopped):
            raise error


class _WorkQueue:
    """Parts to fetch and files to verify, shared by all connections."""

    def __init__(self, files: Sequence[PartialFile]) -> None:
        # The largest file first, so that it is not fetched alone at the end.
        self._open_files = sorted(files, key=lambda file: -file.entry.size)
        # Files that an earlier pull left complete have no missing part: verifying them is work of its own.
        self._unverified = deque(self._open_files)
        self._missing: deque[Part] = deque()
        for file in self._open_files:
            self._missing.extend(_missing_parts(file))
        self._changed = threading.Condition()
        self._is_closed = False

    def __iter__(self) -> Iterator[Part | PartialFile]:
        """Work for one connection: a part to fetch, or a file to verify as far as it has arrived.

        An empty queue is waited for, because a file that turns out to be wrong puts its parts back. It ends when all
        files are right.
        """
        while True:
            with self._changed:
                while not self._unverified and not self._missing and self._open_files and not self._is_closed:
                    self._changed.wait()
                if self._is_closed or not self._open_files:
                    return
                # Verified first: a file that turns out to be wrong adds parts, which should not come at the end.
                work: Part | PartialFile = (
                    self._unverified.popleft() if self._unverified else self._missing.popleft()
                )  # fmt: skip
            # Outside the lock: the connection works on it before it asks for more.
            yield work

    def close_file(self, file: PartialFile) -> None:
        with self._changed:
            self._open_files.remove(file)
            self._changed.notify_all()

    def put_back(self, file: PartialFile) -> None:
        with self._changed:
            # Before all other work: if the store has wrong bytes for good, fetching the rest first is wasted.
            self._missing.extendleft(_missing_parts(file))
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def _missing_parts(file: PartialFile) -> list[Part]:
    return [(file, number) for number in file.part_numbers if not file.is_complete(number)]


class _Connection:
    """One of the connections that fetch an engine's parts at the same time."""

    def __init__(
        self, farm: Farm, links: FileLinks, queue: _WorkQueue, stop: threading.Event, limit: RateLimit | None
    ) -> None:
        self._farm, self._links, self._queue, self._stop, self._limit = farm, links, queue, stop, limit

    def run(self) -> None:
        for work in self._queue:
            file = work if isinstance(work, PartialFile) else work[0]
            try:
                if not isinstance(work, PartialFile):
                    self._fetch_part(file, work[1])
                # Hash the file as far as it has arrived. Wrong bytes are fetched again, up to _MAX_RESTARTS times.
                try:
                    if file.verify(self._stop.is_set):
                        self._queue.close_file(file)
                except IntegrityError:
                    # An empty file cannot be downloaded again: it has no part that could arrive.
                    if file.restarts == _MAX_RESTARTS or not file.entry.size:
                        raise
                    file.restart()
                    self._queue.put_back(file)
            except (IntegrityError, NotFound) as error:
                # The farm withdraws an engine whose stored bytes are damaged, so that no other node fetches them.
                raise type(error)(error.detail + self._links.report_damage(file.entry.path)) from error

    def _fetch_part(self, file: PartialFile, number: int) -> None:
        """Fetch what is missing of a part, over as many requests as it takes.

        Raises:
            IntegrityError: its bytes were wrong once more than _MAX_RESTARTS.
            CallerError: the store refused once more than _MAX_REFUSALS in a row.
            FarmError: nothing arrived for as long as the farm's patience lasts.
            DownloadStopped: another connection failed.
        """
        path = file.entry.path
        refused_url: str | None = None
        refusals, restarts = 0, 0
        farthest = 0  # offset; a server that begins anew each time makes no progress by sending the same bytes again
        for attempt in retrying(self._farm.patience, sleep=sleep_using_event(self._stop)):
            if self._stop.is_set():
                raise DownloadStopped
            with attempt:
                while not file.is_complete(number):
                    if refused_url is not None:
                        # May fail, and is then tried again: links often expire while the farm is away.
                        self._links.renew(path, refused_url)
                        refused_url = None
                    url = self._links.url(path)
                    try:
                        self._receive(url, file, number)
                    except IntegrityError:
                        file.discard_part(number)
                        farthest = 0
                        restarts += 1
                        if restarts > _MAX_RESTARTS:
                            raise
                    except CallerError:
                        refusals += 1
                        if refusals > _MAX_REFUSALS:
                            raise
                        refused_url = url
                    except FarmError:
                        if file.position(number) > farthest:
                            farthest = file.position(number)
                            refusals = 0
                            note_progress(attempt)
                        raise
        file.finish_part(number)

    def _receive(self, url: str, file: PartialFile, number: int) -> None:
        """Append what one response brings of a part. Returns only if the response was as long as it promised.

        Raises:
            IntegrityError: the response has other bytes than those that were asked for.
            FarmError: it broke off, or is no response to this request.
            CallerError: it refuses.
        """
        start, end, size = file.position(number), file.end(number), file.entry.size
        headers = {}
        if start or end < size:
            # Without an end the last part notices bytes that follow the file's last one.
            headers["Range"] = f"bytes={start}-{end - 1 if end < size else ''}"
        with self._farm.bytes(url, headers=headers) as response:
            skip = _bytes_before_range(file, number, response)
            for chunk in response.chunks:
                if self._stop.is_set():
                    raise DownloadStopped
                if self._limit:
                    self._limit.take(len(chunk), self._stop)
                useful = chunk[skip:]
                skip = max(0, skip - len(chunk))
                room = end - file.position(number)
                is_too_long = len(useful) > room
                if is_too_long and (end == size or response.status == HTTPStatus.PARTIAL_CONTENT):
                    raise IntegrityError(f"{file.entry.path}: got more than the {size} bytes its manifest names")
                file.append(number, useful[:room])
                if is_too_long:
                    return  # the server ignored the range and sends the whole file: the rest is of other parts
        if not file.is_complete(number):
            position = file.position(number)
            raise FarmError(f"{file.entry.path}: the response ended after {position} of {end} bytes")


def _bytes_before_range(file: PartialFile, number: int, response: StreamedResponse) -> int:
    """How many bytes of the body precede the requested range: a server may ignore ranges and send the whole file.

    Raises:
        IntegrityError: the response has another range of the file, or of a file of another size.
        FarmError: it is no response to a request for a range.
    """
    path, size, start = file.entry.path, file.entry.size, file.position(number)
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise IntegrityError(f"{path}: the store has fewer bytes than the {size} it should")
    if response.status == HTTPStatus.OK:
        return start
    content_range = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(content_range)
    if response.status != HTTPStatus.PARTIAL_CONTENT or not match:
        raise FarmError(f"{path}: unexpected response {response.status} {content_range}".rstrip())
    if int(match[1]) != start or match[3] not in {"*", str(size)}:
        raise IntegrityError(f"{path}: asked for bytes from {start} of {size}, got {content_range!r}")
    return 0
