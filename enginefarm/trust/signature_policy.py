"""A serving node's signature policy: refuse engines that no trusted key signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from enginefarm.client.farm import Farm
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of


def trusted_key_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the public key files that ENGINEFARM_TRUSTED_KEYS lists, separated by ':'; empty if it is not set."""
    # Two ':' in a row, or one at the end, name no file: scripts that join a list often leave them.
    names = environment.get("ENGINEFARM_TRUSTED_KEYS", "").split(":")
    return tuple(Path(name) for name in names if name)


def require_signed(farm: Farm, engine: Engine, keys: Sequence[Path]) -> None:
    """Verify the attestation that `farm` has for `engine` against the public key files `keys`.

    Without `keys` there is no policy, and every engine passes. Call it before any byte moves: the bytes are then
    checked against the manifest that was signed.

    Raises:
        IntegrityError: no trusted key signed it, or the statement is about another engine or other files.
        NotFound: the farm signs nothing.
        InvalidRequest: a file is no public key.
    """
    if not keys:
        return
    trusted = TrustedKeys.of_files(keys)
    trusted.verify(farm.attestation(engine.key), key=engine.key, manifest=manifest_of(engine))
