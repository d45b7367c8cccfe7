"""Engines of another farm, as a trusted signature vouches for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from enginefarm.trust.provenance import VerifiedRecord
from enginefarm.wire.engine_record import EngineRecord
from models.lifecycle.submission import Request
from tests.models.requests import CPU, manifest

SIGNER = "a" * 64
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


def arriving(wanted: Request, content: str = "engine") -> VerifiedRecord:
    """What answers `wanted`, and took another farm twenty minutes; `content` is its one file."""
    return VerifiedRecord(
        record=EngineRecord(
            key=wanted.build.key,
            manifest=manifest(content),
            checkpoint_document=wanted.convert.document,
            attestation={"payload": "as it came"},
        ),
        signer=SIGNER,
        document={**wanted.build.document, "convert": wanted.convert.key},
        spec=wanted.spec,
        toolchain=wanted.toolchain,
        version=wanted.version,
        platform=CPU,
        bound_to=dict(wanted.build.document["platform"]),
        facts={"worker": "theirs"},
        host=None,
        started_at=BEGAN,
        ended_at=BEGAN + timedelta(minutes=20),
    )
