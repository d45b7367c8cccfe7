"""Routes that read JSON bodies with bounds: at most `MAX_DEPTH` levels, in UTF-8. `{key:key}` in a path is a key."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import StringConvertor, register_url_convertor

from enginefarm.contract.bounded import parse_json

MAX_VALUES = 50_000  # in one body: the largest lists of blobs and of files have fewer


class _KeyConvertor(StringConvertor):
    # Without the colon, `/v1/engines/{key}` would match `/v1/engines/KEY:repair` too, and answer its other methods.
    regex = "[^/:]+"


register_url_convertor("key", _KeyConvertor())


class _BoundedRequest(Request):
    async def json(self) -> Any:
        # FastAPI turns the JSONDecodeError into a RequestValidationError, which `api.http.problems` answers.
        content = await self.body()
        if content.count(b",") > MAX_VALUES:
            # Each could be a mistake, and Pydantic describes every one of them.
            raise json.JSONDecodeError(f"more than {MAX_VALUES} values", "", 0)
        return parse_json(content)


class BoundedRoute(APIRoute):
    """A route whose body is read by `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_BoundedRequest(request.scope, request.receive))

        return handle


def bounded_router(**settings: Any) -> APIRouter:
    """A router of such routes; `settings` as for `APIRouter`."""
    return APIRouter(route_class=BoundedRoute, **settings)
