"""A serving node's signature policy: refuse engines that no trusted key signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.platform import Platform
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_binding import require_bound
from enginefarm.wire.engine_manifest import manifest_of


def trusted_key_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the public key files that ENGINEFARM_TRUSTED_KEYS lists, separated by ':'; empty if it is not set."""
    # Two ':' in a row, or one at the end, name no file: scripts that join a list often leave them.
    names = environment.get("ENGINEFARM_TRUSTED_KEYS", "").split(":")
    return tuple(Path(name) for name in names if name)


def require_signed(farm: Farm, engine: Engine, keys: Sequence[Path]) -> None:
    """Verify the attestation that `farm` has for `engine` against the public key files `keys`.

    Afterwards everything in `engine` that decides on its use is signed: key, documents, spec, platform, manifest.
    Without `keys` there is no policy, and every engine passes. Call it before any byte moves: the bytes are then
    checked against the manifest that was signed.

    Raises:
        IntegrityError: no trusted key signed it, the statement is about another engine or other files, or the record
            states something else than the statement.
        NotFound: the farm signs nothing.
        InvalidRequest: a file is no public key.
    """
    if not keys:
        return
    trusted = TrustedKeys.of_files(keys)
    require_bound(engine)
    verified = trusted.verify(farm.attestation(engine.key), key=engine.key, manifest=manifest_of(engine))
    require_as_signed(engine, verified.statement.predicate)


def require_as_signed(engine: Engine, predicate: Mapping[str, Any]) -> None:
    """Return if the record `engine` states what the signed `predicate` of its provenance does.

    Raises:
        IntegrityError: a field differs, or the predicate does not have it.
    """
    try:
        definition = predicate["buildDefinition"]
        internal = definition["internalParameters"]
        signed = {
            "spec": definition["externalParameters"]["spec"],
            "document": internal["document"],
            "platform": Platform.model_validate(internal["platform"]),
            "provenance": predicate["enginefarm_facts"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"engine {engine.key[:12]}: its signed statement is no provenance of an engine") from error
    for field, value in signed.items():
        if getattr(engine, field) != value:
            raise IntegrityError(
                f"engine {engine.key[:12]}: its {field} is not what its farm signed: do not trust the farm or mirror "
                "that answered"
            )
    # `require_bound` compared the model with the spec only for key documents of the version that it reads.
    model = signed["spec"].get("model") if isinstance(signed["spec"], dict) else None
    if engine.model != model:
        raise IntegrityError(f"engine {engine.key[:12]}: its model is {engine.model!r}, its farm signed {model!r}")
