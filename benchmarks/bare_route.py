"""`python -m benchmarks.bare_route PORT POSTGRES`: the fastest route that does the least a cached submit must do.

It validates the same body, hashes it and asks the same catalogue for one row by its primary key: async
from end to end, on the driver itself, without an ORM, a pool's bookkeeping, an API key or anything written.
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
        made = [await psycopg.AsyncConnection.connect(postgres, autocommit=True) for _ in range(_CONNECTIONS)]
        for connection in made:
            idle.put_nowait(connection)
        yield
        for connection in made:
            await connection.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/builds")
    async def submit(spec: BuildSpec) -> Response:
        key = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        connection = await idle.get()
        try:
            found = await (await connection.execute(_QUERY, [key])).fetchone()
        finally:
            idle.put_nowait(connection)
        return Response(f'{{"key":"{key}","found":{str(found is not None).lower()}}}', media_type="application/json")

    return app


if __name__ == "__main__":
    # As api/__main__.py starts the control plane.
    uvicorn.run(application(sys.argv[2]), port=int(sys.argv[1]), log_config=None, access_log=False, server_header=False)
