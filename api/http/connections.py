"""What one connection may cost before anybody knows whose it is: bytes, seconds, requests, and how many there are.

uvicorn reads HTTP with httptools. That parser is fast and has no limits of its own: it collects a header of any length,
and uvicorn queues any number of pipelined requests. `BoundedConnection` counts and times around it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.http.file_sending import EXTENSION, FileSender

log = logging.getLogger(__name__)

MAX_URL = 8 << 10  # bytes
MAX_HEADER_LINES = 100
MAX_HEAD = 32 << 10  # bytes of the request line and all headers; a proxy's cookies and tokens fit
# Bytes of framing that each byte of a chunked body may have: a client that sends single bytes needs five.
_FRAMING = 8
HEAD_SECONDS = 10.0  # from the first byte of a request, or from the connection, to the end of the headers
STALL_SECONDS = 30.0  # in which a client that is sent an answer must take some of it
MAX_PIPELINED = 8  # requests that wait for the answer to the one before
# What a refused client may still send before the connection is cut. Cut at once, the kernel would answer its bytes
# with a reset, and the client would never read the refusal.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1 << 20
# Refused connections that linger at once; above, they are cut without a word. They take no place of those that are
# served, or one address that connects again and again would shut all others out.
MOST_LINGERING = 256
_LONG_URL = f"the URL is longer than {MAX_URL} bytes"
_LONG_HEAD = f"the headers are longer than {MAX_HEAD} bytes"
_LOG_SECONDS = 10.0  # a refusal of one kind is logged at most this often: an attack must not fill the log

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Connections:
    """The connections of one API process, counted by peer.

    Args:
        most: connections at once.
        most_per_peer: connections of one address.
        proxies: addresses that many clients share, so `most_per_peer` does not hold for them.
    """

    def __init__(
        self,
        most: int,
        most_per_peer: int,
        proxies: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_per_peer = most_per_peer
        self._proxies = proxies
        self._clock = clock
        self._by_peer: Counter[str] = Counter()
        self._total = 0
        self._lingering = 0
        # By the setting or limit that refused: when it may be logged again, and how many were left out since.
        self._quiet_until: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def enter(self, peer: str) -> str | None:
        """Count a connection until `leave`, or return why it is refused; a refused one is not counted."""
        if self._total >= self._most:
            return f"more than ENGINEFARM_MAX_CONNECTIONS={self._most} connections"
        # A proxy is looked up only for a peer above its limit, which is rare.
        if self._by_peer[peer] >= self._most_per_peer and not self._is_proxy(peer):
            return f"more than ENGINEFARM_MAX_CONNECTIONS_PER_PEER={self._most_per_peer} connections of one address"
        self._total += 1
        self._by_peer[peer] += 1
        return None

    def leave(self, peer: str) -> None:
        self._total -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    def begin_linger(self) -> bool:
        """Count a refused connection until `end_linger`; False if too many linger already, and it must be cut."""
        if self._lingering >= MOST_LINGERING:
            return False
        self._lingering += 1
        return True

    def end_linger(self) -> None:
        self._lingering -= 1

    def note_refusal(self, peer: str, reason: str) -> None:
        """Log why a connection is closed, unless the same was logged a moment ago."""
        now = self._clock()
        if now < self._quiet_until.get(reason, 0.0):
            self._left_out[reason] += 1
            return
        self._quiet_until[reason] = now + _LOG_SECONDS
        left_out = self._left_out.pop(reason, 0)
        more = ""
        if left_out:
            more = f" ({left_out} more since the last such line)"
        log.warning("closed a connection of %s: %s%s", peer, reason, more)

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)


class _RefusedError(Exception):
    """Ends the parsing of a request that was refused."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with limits. A request above one of them is answered, and its connection is closed."""

    def __init__(self, *arguments: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._admitted = connections
        self._peer = "an unknown address"
        # Gives back the place that this connection takes, among those that are served or among those that linger.
        self._give_back: Callable[[], None] | None = None
        # True once no further request is read: a request was refused, or asked for another protocol.
        self._is_deaf = False
        self._dropped = 0  # bytes that came since
        # Bytes of the current message that are not its body: request line, headers, framing of chunks, trailers.
        self._overhead = 0
        self._head_is_complete = False
        self._message_is_complete = True
        # When the client must have sent what it owes; None while it owes nothing. One timer serves many deadlines: it
        # looks again when it ends, because most requests are complete long before.
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._file_sender: FileSender | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self._peer = self.client[0]
        self._file_sender = FileSender(transport, self.flow, STALL_SECONDS, self._cut_stalled)
        reason = self._admitted.enter(self._peer)
        if reason is None:
            self._give_back = partial(self._admitted.leave, self._peer)
            self._owe(HEAD_SECONDS)
        elif self._admitted.begin_linger():
            self._give_back = self._admitted.end_linger
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}; try again later")
        else:
            self._is_deaf = True
            self._admitted.note_refusal(self._peer, reason)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._give_back is not None:
            self._give_back()
        self._deadline = None
        if self._file_sender is not None:
            self._file_sender.wake()
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        self._overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is answered as if it had no header Upgrade, which RFC 9110 allows. Bytes after it are not
            # read: the parser would take them for another request.
            self.cycle.keep_alive = False
            self._is_deaf = True
        except httptools.HttpParserError:
            if not self._is_deaf:
                self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1")
        if self._overhead > MAX_HEAD and not self._is_deaf:
            if not self.headers and len(self.url) > MAX_URL:
                self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, _LONG_URL)
            else:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _LONG_HEAD)

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_is_complete = False
        self._message_is_complete = False
        self._owe(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        size = len(self.url)
        has_body = False
        for name, value in self.headers:
            size += len(name) + len(value)
            has_body = has_body or name in {b"content-length", b"transfer-encoding"}
        if len(self.url) > MAX_URL:
            self._stop(HTTPStatus.REQUEST_URI_TOO_LONG, _LONG_URL)
        if size > MAX_HEAD:
            self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _LONG_HEAD)
        if len(self.headers) > MAX_HEADER_LINES:
            self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"there are more than {MAX_HEADER_LINES} headers")
        if has_body and self.parser.should_upgrade():
            # The parser would skip the body.
            self._stop(HTTPStatus.BAD_REQUEST, "this server speaks HTTP/1.1 alone: send the body without `Upgrade`")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(HTTPStatus.TOO_MANY_REQUESTS, f"more than {MAX_PIPELINED} requests wait for an answer")
        self._deadline = None
        self._head_is_complete = True
        super().on_headers_complete()
        if self._file_sender is not None and self.scope["method"] == "GET":
            # Before its task runs for the first time.
            send_file = partial(self._file_sender.send, self.cycle)
            self.scope["extensions"] = {EXTENSION: send_file}  # type: ignore[dict-item]
        # The parser adds the trailers of a chunked body to this list: they must not pass for headers.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._overhead = max(0, self._overhead - (1 + _FRAMING) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._overhead = 0
        self._message_is_complete = True
        self._deadline = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._message_is_complete and self.cycle.response_complete:
            # Answered before the whole body came, for example with a refusal: its rest is read and dropped, not for
            # ever.
            self._owe(HEAD_SECONDS)

    # The answer

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._watch_stall(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _watch_stall(self, unsent: int) -> None:
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self._check_stall, unsent)

    def _check_stall(self, unsent_before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < unsent_before:
            self._watch_stall(unsent)
            return
        self._cut_stalled()

    def _cut_stalled(self) -> None:
        self._admitted.note_refusal(self._peer, f"it read nothing of its answer for {STALL_SECONDS:g} s")
        self.transport.abort()

    # Time

    def _owe(self, seconds: float) -> None:
        """The client must send the rest of what it began within `seconds`."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline is None or self._is_deaf:
            return
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._check_deadline)
        elif self._message_is_complete or self._head_is_complete:
            # Nothing is left to answer: no request was begun, or the answer did not wait for the rest of the body.
            self.transport.close()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {HEAD_SECONDS:g} s")

    # The end

    def _stop(self, status: HTTPStatus, reason: str) -> NoReturn:
        """Refuse the request from within a callback of the parser, which must not go on."""
        self._refuse(status, reason)
        raise _RefusedError

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer with a problem document, and close the connection."""
        self._is_deaf = True
        self._admitted.note_refusal(self._peer, reason)
        if self.cycle is not None and (self._head_is_complete or not self.cycle.response_complete):
            # This request, or an earlier one, is being answered or was: another answer would mix with that.
            self.transport.close()
            return
        document = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": reason,
            "code": status.phrase.lower().replace(" ", "_").replace("-", "_"),
        }
        body = json.dumps(document).encode()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status.value] + head + body)
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
