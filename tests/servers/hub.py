"""A model hub on loopback: the part of the Hugging Face protocol that `huggingface_hub` uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """Commits by hash, and branches that move. `readers` are tokens; None lets everybody read."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    readers: frozenset[str] | None = None
    gated: bool = False  # everybody sees its metadata, only readers its files; private otherwise


class Request(NamedTuple):
    method: str
    path: str
    token: str | None


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str] = {}  # noqa: RUF012
    body: bytes = b""


class Hub:
    """Use it as a context manager, and fill it with `push`. `requests` lists the requests in order."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()  # accounts that exist; any other token is refused
        self.requests: list[Request] = []
        self.down: int | None = None  # answer everything with this status
        self.open = threading.Event()  # while cleared, metadata requests wait
        self.open.set()
        self.damaged: dict[str, bytes] = {}  # by path; served instead of the pushed bytes
        self.extra_listing: list[dict[str, Any]] = []  # appended to every listing
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(self, name: str, files: Files, *, branch: str = "main") -> str:
        """Commit `files` to the branch; returns the commit. The name of a data set is `datasets/org/name`."""
        repository = self.repositories.setdefault(name, Repository())
        content = json.dumps(
            [len(repository.commits), sorted((p, hashlib.sha1(d).hexdigest()) for p, d in files.items())]
        )
        commit = hashlib.sha1(content.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit

    def restrict(self, name: str, *readers: str, gated: bool) -> None:
        self.repositories[name].readers = frozenset(readers)
        self.repositories[name].gated = gated
        self.tokens.update(readers)

    def asked_for(self, text: str) -> int:
        """The number of requests with `text` in their path."""
        return sum(text in request.path for request in self.requests)

    def answer(self, request: Request) -> _Answer:
        self.requests.append(request)
        if self.down is not None:
            return _Answer(self.down)
        if request.token is not None and request.token not in self.tokens:
            return _refused(401, "", "Invalid credentials in Authorization header")
        segments = [unquote(segment) for segment in request.path.strip("/").split("/")]
        match segments:
            case ["api", kind, organization, repository, *revision]:
                self.open.wait(30)
                name = f"{organization}/{repository}"
                if kind != "models":
                    name = f"{kind}/{name}"
                # …/revision/REVISION; without it the hub describes the main branch.
                return self._metadata(name, revision[1] if len(revision) > 1 else "main", request.token)
            case ["datasets", organization, repository, _resolve, commit, *path]:
                return self._file(f"datasets/{organization}/{repository}", commit, "/".join(path), request.token)
            case [organization, repository, _resolve, commit, *path]:
                return self._file(f"{organization}/{repository}", commit, "/".join(path), request.token)
        return _refused(404, "", f"no route for {request.path}")

    def _metadata(self, name: str, revision: str, token: str | None) -> _Answer:
        repository = self.repositories.get(name)
        if repository is None or (not repository.gated and not _may_read(repository, token)):
            return _refused(404 if token else 401, "RepoNotFound", "Repository not found")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return _refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [_sibling(path, data) for path, data in repository.commits[commit].items()]
        body = {"id": name, "modelId": name, "sha": commit, "siblings": siblings + self.extra_listing}
        return _Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _file(self, name: str, revision: str, path: str, token: str | None) -> _Answer:
        repository = self.repositories.get(name)
        if repository is None:
            return _refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if not _may_read(repository, token):
            code = "GatedRepo" if repository.gated else "RepoNotFound"
            return _refused(403 if token else 401, code, "Access to this model is restricted")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return _refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in repository.commits[commit]:
            return _refused(404, "EntryNotFound", "Entry not found")
        data = self.damaged.get(path, repository.commits[commit][path])
        headers = {"ETag": f'"{_etag(path, data)}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(data))}
        return _Answer(200, headers, data)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            answer = hub.answer(Request(self.command, urlsplit(self.path).path, bearer or None))
            answer = _part(answer, self.headers.get("Range"))
            self.send_response(HTTPStatus(answer.status))
            for header, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent: tests read `hub.requests`."""

    return Handler


def _part(answer: _Answer, asked_range: str | None) -> _Answer:
    """The first bytes of an answer, if the request asks for them: `bytes=0-LAST`."""
    if asked_range is None or answer.status != HTTPStatus.OK:
        return answer
    body = answer.body[: int(asked_range.removeprefix("bytes=0-")) + 1]
    headers = {**answer.headers, "Content-Range": f"bytes 0-{len(body) - 1}/{len(answer.body)}"}
    return _Answer(HTTPStatus.PARTIAL_CONTENT, headers, body)


def _refused(status: int, code: str, message: str) -> _Answer:
    headers = {"X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return _Answer(status, headers)


def _may_read(repository: Repository, token: str | None) -> bool:
    return repository.readers is None or token in repository.readers


def _etag(path: str, data: bytes) -> str:
    """Large files are named by their SHA-256, small ones by their git blob."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": _etag(path, data)}
    if path.endswith(".safetensors"):
        sibling["lfs"] = {"size": len(data), "sha256": _etag(path, data), "pointerSize": 134}
    return sibling
