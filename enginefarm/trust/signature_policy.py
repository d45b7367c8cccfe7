"""A node insists on a signature: what no trusted key signed is not fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from enginefarm.client.farm import Farm
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of


def keys_named(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files of ENGINEFARM_TRUSTED_KEYS, joined by ':'."""
    return tuple(Path(name) for name in environment.get("ENGINEFARM_TRUSTED_KEYS", "").split(":") if name)


def require_signed(farm: Farm, engine: Engine, keys: Sequence[Path]) -> None:
    """Return if one of these public keys signed that `engine` is what the farm says, or if there are none.

    Call it before any byte moves: the bytes are then checked against the manifest that was signed.

    Raises:
        IntegrityError: no trusted key signed it, or it signed something else.
        NotFound: the farm does not sign.
        InvalidRequest: a file is no public key.
    """
    if keys:
        trusted = TrustedKeys.of_files(keys)
        trusted.verify(farm.attestation(engine.key), key=engine.key, manifest=manifest_of(engine))
