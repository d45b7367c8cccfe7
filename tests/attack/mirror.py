"""A lying mirror: a real HTTP server between a node and a farm, which passes on what it does not replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from fastapi import Request, Response

from tests.enginefarm.http_double import HttpDouble

# The method, the path, and what the farm answered (None if it was not JSON) → what the mirror answers; None: the same.
Lie = Callable[[str, str, Any], Any]


class Mirror(HttpDouble):
    """Answers `lie(method, path, answer)` in place of the farm's JSON, and passes on everything else."""

    def __init__(self, farm_url: str) -> None:
        super().__init__()
        self.lie: Lie = lambda method, path, answer: None
        self._farm = httpx.Client(base_url=farm_url, timeout=60)
        self.app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])(self._forward)

    def stop(self) -> None:
        super().stop()
        self._farm.close()

    async def _forward(self, path: str, request: Request) -> Response:
        headers = {"content-type": request.headers.get("content-type", ""), "range": request.headers.get("range", "")}
        answered = self._farm.request(
            request.method, f"/{path}", params=dict(request.query_params), content=await request.body(),
            headers={name: value for name, value in headers.items() if value},
        )  # fmt: skip
        passed = {"location", "content-range", "etag", "content-type"} & set(answered.headers)
        is_json = "json" in answered.headers.get("content-type", "")
        lie = self.lie(request.method, f"/{path}", answered.json() if is_json else None)
        if isinstance(lie, Response):
            return lie
        if lie is not None:
            return Response(httpx.Response(200, json=lie).content, 200, media_type="application/json")
        return Response(
            answered.content, answered.status_code, {name: answered.headers[name] for name in sorted(passed)}
        )
