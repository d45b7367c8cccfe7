"""Record builds whose engines exist: on PostgreSQL one statement finds the engines and records the builds.

The statement is its own transaction. A submit of an engine that exists costs one round trip, which all submits that
arrive together share.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Row, text

from models.catalogue.database import Database
from models.catalogue.rows import EngineRow, ManifestRow
from models.lifecycle.submission import Request

# `requests` are the distinct requests of a batch, `builds` its builds, each with the number of its request. An engine
# that is withdrawn has no build recorded: the statement sees one state of the catalogue. `spec` and `asked` are of the
# type json, which keeps the text as it is.
_RECORD = text("""
WITH request AS MATERIALIZED (
    SELECT * FROM json_to_recordset(cast(:requests AS json)) AS request (
        number int, key text, spec json, asked json, model text, toolchain text, version text, platform json,
        platform_label text)
), engine AS MATERIALIZED (
    SELECT engines.key, engines.model, engines.toolchain, engines.version, engines.platform, engines.manifest,
        manifests.size, manifests.files, engines.created_at, engines.pinned
    FROM engines JOIN manifests ON manifests.digest = engines.manifest
    WHERE engines.key = ANY(:keys) AND engines.quarantined_at IS NULL
), recorded AS (
    INSERT INTO builds (id, key, disposition, state, spec, asked, model, toolchain, version, platform, platform_label,
        requested_by, ended_at)
    SELECT build.id, request.key, 'cached', 'succeeded', request.spec, request.asked, request.model, request.toolchain,
        request.version, request.platform, request.platform_label, build.requested_by, clock_timestamp()
    FROM json_to_recordset(cast(:builds AS json)) AS build (id text, number int, requested_by text)
    JOIN request ON request.number = build.number
    JOIN engine ON engine.key = request.key
)
SELECT * FROM engine
""").columns(
    EngineRow.key, EngineRow.model, EngineRow.toolchain, EngineRow.version, EngineRow.platform, EngineRow.manifest,
    ManifestRow.size, ManifestRow.files, EngineRow.created_at, EngineRow.pinned,
)  # fmt: skip


def record_where_served(
    database: Database, requests: Sequence[Request]
) -> tuple[list[str], list[Row[*tuple[Any, ...]]]]:
    """Record a succeeded build for each request whose engine is served. PostgreSQL only.

    Returns:
        An id for each request, which its build has if its engine is among the engines, and the engines that are
        served, with the columns of an EngineSummary.

    Raises:
        DatabaseUnavailable: nothing was recorded, unless the connection was lost during the commit.
    """
    ids = []
    builds = []
    distinct: dict[int, dict[str, Any]] = {}
    for request in requests:
        # Requests from one plan share their spec, and a batch often has many of one plan.
        number = id(request.spec)
        if number not in distinct:
            distinct[number] = {"number": len(distinct)} | request.build_columns()
        build_id = secrets.token_hex(10)
        ids.append(build_id)
        builds.append({"id": build_id, "number": distinct[number]["number"], "requested_by": request.requested_by})
    columns = list(distinct.values())
    parameters = {
        "keys": list({row["key"] for row in columns}),
        "requests": to_json(columns).decode(),
        "builds": to_json(builds).decode(),
    }
    with database.single_statements() as session:
        engines = session.connection().execute(_RECORD, parameters).all()
    return ids, list(engines)
