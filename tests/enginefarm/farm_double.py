"""A farm double: a real HTTP server with the REST API's real bodies, and wrong answers when a test asks for them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from enginefarm.contract.errors import EnginefarmError, NotFound, Problem, Unauthenticated
from enginefarm.contract.key import key_of
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.node.detection import detect
from enginefarm.wire.bodies import Build, Engine, EngineSummary, PhysicalFile, ProblemDocument, Worker
from tests.enginefarm.http_double import HttpDouble
from tests.enginefarm.store_double import StoreDouble

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HERE = detect(prefer_gpu=False)
H100 = Platform(
    arch="x86_64", gpu="NVIDIA H100 80GB HBM3", sm="90", gpu_memory_gib=80, ecc=True, cuda="13.0", driver="580.159.04"
)
MODEL = "hf:acme/tiny-llama@" + "5f0b" * 10


@dataclass
class FarmState:
    """The rows that the double answers from, and its next faults."""

    builds: dict[str, Build] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    refuse: Response | None = None  # the answer to every request, if there is one
    log: bytes = b""
    log_cuts: list[int] = field(default_factory=list)  # each request of the log breaks off before one of these bytes
    stages: list[dict[str, Any]] = field(default_factory=list)  # fields of build b1, the next ones at each request
    page: int = 2  # items per page: few, so that every list has several pages


class FarmDouble(HttpDouble):
    """The routes that the client uses, answered from `state`."""

    def __init__(self, store: StoreDouble) -> None:
        super().__init__()
        self.state = FarmState()
        self.store = store
        self.key: str | None = None  # the API key that requests must have
        self.refusals = 0  # requests that are answered 503 from now on
        get = self.app.get
        self.app.post("/v1/builds")(self._submit)
        get("/v1/builds")(self._builds)
        get("/v1/builds/{build_id}")(self._build)
        get("/v1/builds/{build_id}/logs")(self._logs)
        self.app.delete("/v1/builds/{build_id}")(self._cancel)
        get("/v1/engines")(self._engines)
        get("/v1/engines/{key}")(self._engine)
        get("/v1/engines/{key}/files/{path:path}")(self._file)
        get("/v1/workers")(lambda: {"items": [worker.model_dump(mode="json") for worker in self.state.workers]})
        get("/v1/toolchains")(lambda: TOOLCHAINS)
        get("/readyz")(lambda: JSONResponse({"ok": False, "parts": {"broker": {"ok": False, "detail": "gone"}}}, 503))
        self.app.exception_handler(EnginefarmError)(lambda _, error: problem(error))

    def reset(self) -> None:
        super().reset()
        self.state, self.key, self.refusals = FarmState(), None, 0

    def publish(
        self, files: Mapping[str, bytes], *, platform: Platform = HERE.platform, direct: bool = False
    ) -> Engine:
        """Store the files and list an engine of them, with the farm's own links or (`direct`) the store's."""
        document = {"files": sorted(files), "platform": platform.label()}
        entries = [FileEntry(path=p, digest=self.store.put(data), size=len(data)) for p, data in files.items()]
        return self.list_engine(key_of(document), entries, platform=platform, direct=direct, document=document)

    def list_engine(
        self,
        key: str,
        entries: Iterable[FileEntry],
        *,
        platform: Platform = HERE.platform,
        direct: bool = False,
        document: dict[str, Any] | None = None,
    ) -> Engine:
        """List an engine of `entries`, whose bytes the store may have or not, in the place of one with this key."""
        if document is None and key in self.state.engines:
            document = self.state.engines[key].document
        manifest = Manifest.of(entries)
        contents = [PhysicalFile(**e.model_dump(), url=self._url(key, e, direct)) for e in manifest.files]
        engine = new_engine(key, manifest, contents, platform, document=document)
        self.state.engines[key] = engine
        return engine

    def summary(self, engine: Engine) -> EngineSummary:
        return EngineSummary(**engine.model_dump(include=set(EngineSummary.model_fields)))

    def add_build(self, build_id: str, **fields: Any) -> Build:
        """Add a build with these fields of `Build`; those of `new_build` otherwise."""
        build = new_build(build_id, **fields)
        self.state.builds[build_id] = build
        return build

    def change(self, build_id: str, **fields: Any) -> None:
        """Replace a build."""
        self.state.builds[build_id] = new_build(build_id, **fields)

    def _url(self, key: str, entry: FileEntry, direct: bool) -> str:
        return self.store.link(entry.digest) if direct else f"/v1/engines/{key}/files/{entry.path}"

    def answer(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return problem(Unauthenticated("an API key is needed"))
        if self.refusals:
            self.refusals -= 1
            return Response(status_code=503)
        return self.state.refuse

    def _submit(self, spec: dict[str, Any]) -> JSONResponse:
        BuildSpec.parse(spec)
        build = self.add_build("b1", **(self.state.stages[0] if self.state.stages else {}))
        cached = build.engine is not None
        body = {
            "id": build.id, "key": build.key, "disposition": "cached" if cached else "created", "state": build.state,
            "engine": build.engine.model_dump(mode="json") if build.engine else None,
        }  # fmt: skip
        return JSONResponse(body, 200 if cached else 202)

    def _builds(self, state: str | None = None, cursor: int = 0) -> dict[str, Any]:
        builds = [build for build in self.state.builds.values() if state in {None, build.state}]
        return self._page(builds, cursor)

    def _engines(self, cursor: int = 0) -> dict[str, Any]:
        return self._page([self.summary(engine) for engine in self.state.engines.values()], cursor)

    def _page(self, items: list[Any], cursor: int) -> dict[str, Any]:
        end = cursor + self.state.page
        page = [item.model_dump(mode="json") for item in items[cursor:end]]
        return {"items": page, "next_cursor": str(end) if end < len(items) else None}

    async def _build(self, build_id: str, request: Request, wait: float = 0) -> Response:
        client_tag = request.headers.get("if-none-match")
        deadline = time.monotonic() + wait
        self._next_stage(build_id)
        while True:
            body = self._get(self.state.builds, build_id, "build").model_dump_json()
            tag = f'"{hashlib.sha256(body.encode()).hexdigest()}"'
            if tag != client_tag or time.monotonic() >= deadline:
                status = 304 if tag == client_tag else 200
                return Response(body if status == 200 else None, status, {"ETag": tag}, "application/json")
            await asyncio.sleep(0.01)

    def _next_stage(self, build_id: str) -> None:
        if build_id == "b1" and self.state.stages:
            self.change("b1", **self.state.stages.pop(0))

    async def _logs(self, build_id: str, offset: int = 0) -> StreamingResponse:
        self._get(self.state.builds, build_id, "build")
        cut = self.state.log_cuts.pop(0) if self.state.log_cuts else None

        async def pieces() -> AsyncIterator[bytes]:
            yield self.state.log[offset:cut]
            if cut is not None:
                raise ConnectionResetError

        return StreamingResponse(pieces(), media_type="text/plain")

    def _cancel(self, build_id: str) -> Response:
        self._get(self.state.builds, build_id, "build")
        self.change(build_id, state="cancelled")
        return Response(self.state.builds[build_id].model_dump_json(), media_type="application/json")

    def _engine(self, key: str) -> Response:
        engine = self._get(self.state.engines, key, "engine")
        contents = [
            file.model_copy(update={"url": self.store.link(file.digest)}) if file.url.startswith("http") else file
            for file in engine.contents
        ]
        return Response(
            engine.model_copy(update={"contents": contents}).model_dump_json(), media_type="application/json"
        )

    def _file(self, key: str, path: str) -> RedirectResponse:
        engine = self._get(self.state.engines, key, "engine")
        return RedirectResponse(self.store.link(self._get({f.path: f.digest for f in engine.contents}, path, "file")))

    def _get(self, rows: dict[str, Any], name: str, kind: str) -> Any:
        if name not in rows:
            reason = Problem(pointer="", code="not_found", detail=f"unknown {kind}", value=name, remedy="list them")
            raise NotFound(f"there is no {kind} {name}", problems=[reason])
        return rows[name]


def new_engine(
    key: str,
    manifest: Manifest,
    contents: list[PhysicalFile],
    platform: Platform = HERE.platform,
    document: dict[str, Any] | None = None,
) -> Engine:
    fields = frozenset(platform.model_dump())
    return Engine(
        key=key, model=MODEL, toolchain="aoti", version="2.13.0", platform=platform, manifest=manifest.digest,
        size=manifest.size, files=len(manifest.files), created_at=NOW, spec={}, document=document or {},
        bound_to=platform.bound(fields, "branch"), driver_binding="branch", contents=contents,
    )  # fmt: skip


def new_build(build_id: str, **fields: Any) -> Build:
    build: dict[str, Any] = {
        "id": build_id, "key": "ab" * 32, "disposition": "created", "state": "queued", "model": MODEL,
        "toolchain": "aoti", "version": "2.13.0", "platform": HERE.platform.model_dump(), "created_at": NOW,
    }  # fmt: skip
    if fields.get("engine") is not None:
        build["key"] = fields["engine"].key
    return Build.model_validate(build | fields)


def problem(error: EnginefarmError, *, code: str | None = None, status: int | None = None) -> Response:
    document = ProblemDocument(
        title=error.title, status=status or error.status, detail=error.detail, code=code or error.code,
        errors=list(error.problems),
    )  # fmt: skip
    return Response(document.model_dump_json(), document.status, media_type="application/problem+json")


TOOLCHAINS = {
    "items": [
        {
            "name": "aoti", "title": "PyTorch AOTInductor",
            "versions": [{"version": "2.13.0", "available": True, "options_schema": {"type": "object"}}],
        }
    ]
}  # fmt: skip
