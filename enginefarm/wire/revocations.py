"""The list of recalled engines that a farm signs: the payload of the envelope that GET /v1/revocations answers."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.key import Key

PAYLOAD_TYPE = "application/vnd.enginefarm.revocations+json"
DOCUMENT: Literal["enginefarm.revocations/1"] = "enginefarm.revocations/1"


class _Section(BaseModel):
    # A later farm may add fields. One that changes the meaning needs another version of the document.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Revocation(_Section):
    """One recalled engine: this key with these files."""

    key: Key
    manifest: Digest
    reason: str
    revoked_at: AwareDatetime


class RevocationList(_Section):
    """What a farm signs."""

    document: Literal["enginefarm.revocations/1"] = DOCUMENT
    farm: str  # URI, as in the statements that it signs
    sequence: int = Field(ge=0)
    issued_at: AwareDatetime
    expires_at: AwareDatetime
    revoked: tuple[Revocation, ...]

    def payload(self) -> bytes:
        """Return the bytes to sign."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    def require_not_revoked(self, key: Key, manifest: Digest) -> None:
        """Raises IntegrityError if the engine with these files is in the list."""
        for entry in self.revoked:
            if (entry.key, entry.manifest) == (key, manifest):
                raise IntegrityError(
                    f"engine {key[:12]} was recalled by its farm on {entry.revoked_at:%Y-%m-%d %H:%MZ}: "
                    f"{entry.reason[:200]!r}; do not use it: resolve or submit its spec again"
                )
