"""Limits on the answers of S3 servers, for both clients: bytes, seconds, no compression that was not asked for.

Both SDKs read an answer to its end before they look at it. `LimitedPool` reads it for minio and `limit_botocore` for
botocore; what is streamed, the bytes of an object, must state its length and ends there. A deadline covers the whole
answer, head and body: a server that sends a byte a minute would otherwise hold a thread for ever.
"""

from __future__ import annotations

import io
import math
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import urllib3
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
    AWSPreparedRequest,
    AWSResponse,
)
from botocore.httpsession import URLLib3Session
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from models.outbound import time_limit
from models.outbound.uninterruptible import resolve

# A page of a listing has 1,000 entries of some hundred bytes; names of the greatest length make 3.4 MB of it.
MAX_ANSWER_BYTES = 4 << 20
ANSWER_SECONDS = 120.0  # to send a request and read its answer; the sending of an object comes before it
# An object may take longer the larger it is.
_OBJECT_BYTES_PER_SECOND = 256 << 10
_CHUNK = 1 << 16
_NO_BODY = {"HEAD"}


class AnswerRefused(urllib3.exceptions.HTTPError):
    """The answer is too long, compressed, or an object without its length. The text is the predicate of an error."""


class NotS3(AnswerRefused):
    """The answer is none of an S3 server. The text is what it is instead, as in "an HTML page"."""


class Redirected(AnswerRefused):
    """The answer is a redirect that no S3 server explained: by a proxy, or by a server of another region.

    Args:
        status: the HTTP status.
        region: that the answer names; None if it names none.
        to_https: True if it leads from http to https.
    """

    def __init__(self, status: int, region: str | None, *, to_https: bool) -> None:
        super().__init__(f"redirects elsewhere ({status})")
        self.status = status
        self.region = region
        self.to_https = to_https


class OutOfTime(urllib3.exceptions.TimeoutError):
    """The time of the work that sends this request is over."""


class _TimedReader(io.RawIOBase):
    """Reads from a socket until the deadline of its connection."""

    def __init__(self, socket: Any, connection: _Timed) -> None:
        self._socket = socket
        self._connection = connection
        # The socket's own reader: it keeps the socket open until the answer is read, as http.client expects.
        self._raw = socket.makefile("rb", 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        timeout = self._socket.gettimeout()
        remaining = self._connection.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the deadline of the whole answer has passed")
        self._socket.settimeout(min(remaining, math.inf if timeout is None else timeout))
        try:
            count: int | None = self._raw.readinto(buffer)
        finally:
            self._socket.settimeout(timeout)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """A socket whose readers end at the deadline of its connection."""

    def __init__(self, socket: Any, connection: _Timed) -> None:
        self._socket = socket
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def makefile(self, mode: str, buffering: int = -1) -> io.RawIOBase | io.BufferedReader:
        reader = _TimedReader(self._socket, self._connection)
        if buffering == 0:
            return reader
        return io.BufferedReader(reader, _CHUNK)


class _Timed:
    """A connection of urllib3 that opens within its time-out, however many addresses there are, and has a deadline."""

    deadline = math.inf  # monotonic
    sock: Any
    host: str
    port: int
    timeout: Any  # seconds to connect
    source_address: Any
    socket_options: Any
    _dns_host: str

    def _new_conn(self) -> socket.socket:
        # urllib3 waits for the resolver without a limit, and then as long as the time-out for each address.
        connection: Any = self
        end = time.monotonic() + min(float(self.timeout), max(0.0, time_limit.seconds_left()))
        try:
            addresses = resolve(self._dns_host, self.port, end - time.monotonic())
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, connection, socket.gaierror(*error.args)) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, f"no name server told the address of {self.host} in time") from error
        failure: OSError = TimeoutError("no time was left")
        for number, address in enumerate(addresses):
            # An address that does not answer leaves time for those behind it.
            share = (end - time.monotonic()) / (len(addresses) - number)
            if share <= 0:
                break
            try:
                return create_connection((address, self.port), share, self.source_address, self.socket_options)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(connection, f"{self.host} did not accept a connection in time") from failure
        raise NewConnectionError(connection, f"{self.host} refused the connection: {failure}") from failure

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the connection class beside this one
        self.sock = _TimedSocket(self.sock, self)

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        # From here on, not from the start of the request: a large part may take long to send.
        self.deadline = min(time.monotonic() + ANSWER_SECONDS, time_limit.deadline())
        return super().getresponse(*args, **kwargs)  # type: ignore[misc]


class _TimedHTTPConnection(_Timed, HTTPConnection):
    pass


class _TimedHTTPSConnection(_Timed, HTTPSConnection):
    pass


class _TimedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _TimedHTTPConnection


class _TimedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _TimedHTTPSConnection


class _TimedAWSConnection(_Timed, AWSHTTPConnection):  # type: ignore[misc]
    pass


class _TimedAWSSConnection(_Timed, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _TimedAWSPool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _TimedAWSConnection


class _TimedAWSSPool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _TimedAWSSConnection


class LimitedPool(urllib3.PoolManager):
    """Connections for the minio SDK."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pool_classes_by_scheme = {"http": _TimedHTTPPool, "https": _TimedHTTPSPool}

    def urlopen(  # type: ignore[override]  # PoolManager's own signature, which differs from its base's
        self, method: str, url: str, redirect: bool = True, *, preload_content: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request as `PoolManager.urlopen` does, within the limit of the work that it belongs to.

        Raises:
            AnswerRefused: the answer has more than MAX_ANSWER_BYTES or is compressed; of an object, no length.
            NotS3, Redirected: the answer is none of S3.
            OutOfTime: no time is left.
        """
        if time_limit.seconds_left() <= 0:
            raise OutOfTime("did not answer all that was asked in time")
        response = super().urlopen(method, url, redirect, preload_content=False, decode_content=False, **kw)
        if method not in _NO_BODY:
            _require_plain(response)
        if preload_content or response.status >= 300:
            body = _read(response)
            if method not in _NO_BODY:
                _require_s3(method, url, response, body)
            return urllib3.HTTPResponse(
                body=body,
                headers=response.headers,
                status=response.status,
                reason=response.reason,
                version=response.version,
                decode_content=False,
                request_method=method,
                request_url=url,
            )
        # http.client stops at the length, but goes on as long as chunks come.
        length = response.headers.get("Content-Length", "")
        if response.headers.get("Transfer-Encoding") or not length.isdecimal():
            response.close()
            raise AnswerRefused("sent an object without its length")
        connection: Any = response.connection
        if connection is not None:  # None after an empty body, which is read already
            seconds = ANSWER_SECONDS + int(length) / _OBJECT_BYTES_PER_SECOND
            connection.deadline = min(time.monotonic() + seconds, time_limit.deadline())
        return response


def limit_botocore(client: Any, *, connections: int) -> None:
    """Let a botocore client send its requests over connections with these limits.

    Args:
        client: a client whose answers are all small, as those of multipart uploads are.
    """
    session = URLLib3Session(
        # botocore would trust only the bundle of certifi. minio's connections follow SSL_CERT_FILE and the system.
        verify=ssl.get_default_verify_paths().cafile or True,
        # The store is near the farm and minio goes to it directly; None would read HTTP_PROXY from the environment.
        proxies={},
        timeout=(5, 60),
        max_pool_connections=connections,
    )
    session._manager.pool_classes_by_scheme = {"http": _TimedAWSPool, "https": _TimedAWSSPool}

    def send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        request.stream_output = True  # else the session reads the answer itself, to its end
        response = session.send(request)
        if request.method not in _NO_BODY:
            _require_plain(response.raw)
        return AWSResponse(response.url, response.status_code, response.headers, _Body(_read(response.raw)))

    client.meta.events.register("before-send.s3", send)


class _Body:
    """A body that was read, in the form in which botocore takes one."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        yield self._content


def _require_plain(response: urllib3.BaseHTTPResponse) -> None:
    encoding = response.headers.get("Content-Encoding", "").lower()
    # Only what a client would decompress: some servers keep `aws-chunked` of an upload as the encoding of the object.
    if any(name.strip() in urllib3.HTTPResponse.CONTENT_DECODERS for name in encoding.split(",")):
        response.close()
        raise AnswerRefused("compressed its answer, although it was not asked to; check any proxy on the way")


def _require_s3(method: str, url: str, response: urllib3.BaseHTTPResponse, body: bytes) -> None:
    """Return if the answer, which is none with the bytes of an object, may be of an S3 server.

    Errors of other servers pass: the SDK refuses them, and their status says more than their form.
    """
    start = body[:1024].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    is_html = start.startswith((b"<!doctype html", b"<html"))
    is_xml = start.startswith(b"<") and not is_html
    if 300 <= response.status < 400 and response.status != 304 and not is_xml:
        to_https = url.startswith("http://") and response.headers.get("Location", "").startswith("https://")
        raise Redirected(response.status, response.headers.get("x-amz-bucket-region"), to_https=to_https)
    if response.status == 200 and not is_xml:
        if is_html:
            raise NotS3("an HTML page")
        if body:
            raise NotS3("something that is no XML")
        if method == "GET":
            raise NotS3("nothing")
    if response.status >= 300 and is_xml:
        try:
            body.decode()
        except UnicodeDecodeError:
            raise NotS3("an error in no known encoding") from None
        # The SDK reads errors of this one type, and some servers call theirs text/xml.
        response.headers["Content-Type"] = "application/xml"


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    body = bytearray()
    for chunk in response.stream(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            raise AnswerRefused(f"sent more than the {MAX_ANSWER_BYTES} bytes that an answer may have")
    response.release_conn()
    return bytes(body)
