"""The two services that issue temporary keys to programs on AWS: instance metadata (IMDSv2) and STS."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs

_ROLE = "enginefarm-worker"
_ROLE_PATH = "/latest/meta-data/iam/security-credentials/"


class AwsMetadata:
    """Issues the given keys as temporary ones. Use it as a context manager.

    Args:
        lifetime: from the issue of keys to their expiration. botocore refreshes keys in their last ten minutes.
    """

    def __init__(self, access_key: str, secret_key: str, *, lifetime: timedelta = timedelta(hours=1)) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.lifetime = lifetime
        self.issued = 0  # answers with keys
        self.available = True  # False: every request is answered with an error
        self.web_identity_tokens: list[str] = []  # that STS received
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def instance_keys(self) -> bytes:
        """Return the keys in the form of instance metadata."""
        self.issued += 1
        keys = {
            "Code": "Success",
            "AccessKeyId": self.access_key,
            "SecretAccessKey": self.secret_key,
            "Token": "session-token",
            "Expiration": self._expiration(),
        }
        return json.dumps(keys).encode()

    def web_identity_keys(self, token: str) -> bytes:
        """Return the keys in the form of STS's answer to AssumeRoleWithWebIdentity."""
        self.issued += 1
        self.web_identity_tokens.append(token)
        return (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{self.access_key}</AccessKeyId><SecretAccessKey>{self.secret_key}</SecretAccessKey>"
            f"<SessionToken>session-token</SessionToken><Expiration>{self._expiration()}</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ).encode()

    def _expiration(self) -> str:
        return (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")


def _handler(service: AwsMetadata) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self._answer(b"metadata-token")  # IMDSv2 asks for a token first

        def do_GET(self) -> None:
            if self.path == _ROLE_PATH:
                self._answer(_ROLE.encode())
            else:
                self._answer(service.instance_keys() if service.available else b"")

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(service.web_identity_keys(form["WebIdentityToken"][0]) if service.available else b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200 if service.available else 400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    return Handler
