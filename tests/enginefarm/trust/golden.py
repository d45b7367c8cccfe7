"""Statements that real farms signed, frozen: later versions must verify them. Never edit one; add new ones."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.engine_record import EngineRecord

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden_statements.json").read_text())


def record(name: str) -> EngineRecord:
    return EngineRecord.model_validate(GOLDEN[name]["record"])


def trusted(name: str) -> TrustedKeys:
    return TrustedKeys.of_pems([GOLDEN[name]["public_key"]])


def payload(envelope: dict[str, Any]) -> bytes:
    return base64.b64decode(envelope["payload"])
