"""`python -m benchmarks.bare_route PORT POSTGRES`: the fastest route that does the least a cached submit must do.

It validates the same body, hashes it and selects one row of the same catalogue by its primary key. It is async
throughout, on the driver itself, without an ORM, a pool, an API key or a write.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import uvicorn
from fastapi import FastAPI, Response

from enginefarm.contract.spec import BuildSpec

_CONNECTIONS = 20  # as many as the control plane's pool
_QUERY = "SELECT key FROM engines WHERE key = %s"


def application(postgres: str) -> FastAPI:
    idle: asyncio.Queue[psycopg.AsyncConnection] = asyncio.Queue()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connections = [await psycopg.AsyncConnection.connect(postgres, autocommit=True) for _ in range(_CONNECTIONS)]
        for connection in connections:
            idle.put_nowait(connection)
        yield
        for connection in connections:
            await connection.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/builds")
    async def submit(spec: BuildSpec) -> Response:
        key = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        connection = await idle.get()
        try:
            row = await (await connection.execute(_QUERY, [key])).fetchone()
        finally:
            idle.put_nowait(connection)
        exists = str(row is not None).lower()
        return Response(f'{{"key":"{key}","found":{exists}}}', media_type="application/json")

    return app


if __name__ == "__main__":
    # As api/__main__.py starts the control plane.
    uvicorn.run(application(sys.argv[2]), port=int(sys.argv[1]), log_config=None, access_log=False, server_header=False)
