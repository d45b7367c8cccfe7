"""Make verified records of engines that another farm built."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from enginefarm.trust.provenance import VerifiedRecord
from enginefarm.wire.engine_record import EngineRecord
from models.lifecycle.submission import Request
from tests.models.requests import CPU, one_file_manifest

SIGNER = "a" * 64
STARTED_AT = datetime(2026, 11, 1, tzinfo=UTC)


def imported_record(build_request: Request, content: str = "engine") -> VerifiedRecord:
    """The record of an engine for `build_request`, built in twenty minutes, with the one file `content`."""
    return VerifiedRecord(
        record=EngineRecord(
            key=build_request.build.key,
            manifest=one_file_manifest(content),
            checkpoint_document=build_request.convert.document,
            attestation={"payload": "as it came"},
        ),
        signer=SIGNER,
        document={**build_request.build.document, "convert": build_request.convert.key},
        spec=build_request.spec,
        toolchain=build_request.toolchain,
        version=build_request.version,
        platform=CPU,
        bound_to=dict(build_request.build.document["platform"]),
        facts={"worker": "of the other farm"},
        host=None,
        started_at=STARTED_AT,
        ended_at=STARTED_AT + timedelta(minutes=20),
    )
