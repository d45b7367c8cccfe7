"""A serving node's signature policy: refuse engines that no trusted key signed, and recalled ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import EnginefarmError, IntegrityError, InvalidRequest
from enginefarm.contract.platform import Platform
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.trust.revocations import SeenLists, require_fresh, verify_list
from enginefarm.trust.verification_summary import Provenance, verify_provenance, verify_summary
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_binding import require_bound
from enginefarm.wire.engine_manifest import manifest_of
from enginefarm.wire.revocations import RevocationList

_LONGEST_AGE = 10 * 365 * 86400.0  # seconds

_log = logging.getLogger(__name__)


def trusted_key_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the public key files that ENGINEFARM_TRUSTED_KEYS lists, separated by ':'; empty if it is not set."""
    # Two ':' in a row, or one at the end, name no file: scripts that join a list often leave them.
    names = environment.get("ENGINEFARM_TRUSTED_KEYS", "").split(":")
    return tuple(Path(name) for name in names if name)


def revocations_max_age(environment: Mapping[str, str]) -> float | None:
    """Return the seconds that ENGINEFARM_REVOCATIONS_MAX_AGE allows; None if it is not set.

    Raises:
        InvalidRequest: it is no positive number.
    """
    text = environment.get("ENGINEFARM_REVOCATIONS_MAX_AGE", "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < _LONGEST_AGE:
        raise InvalidRequest(f"ENGINEFARM_REVOCATIONS_MAX_AGE is {text[:40]!r}: expected seconds, such as 86400")
    return seconds


@dataclass(frozen=True)
class SignaturePolicy:
    """What a node requires of an engine before any byte of it moves.

    Args:
        keys: files of public keys, of which one must have signed the engine; without any, unsigned engines pass.
        seen: the lists of recalled engines that this node saw.
        max_age: seconds that the farm's list of recalled engines may be old; None: the node does not insist on one.
    """

    keys: Sequence[Path]
    seen: SeenLists
    max_age: float | None = None

    def require(self, farm: Farm, engine: Engine) -> None:
        """Return if this node may use `engine`.

        Raises:
            IntegrityError: it is not signed as required, it was recalled, or the list of recalled engines is not as
                this node insists.
            NotFound: the farm signs nothing.
            InvalidRequest: a file is no public key; `max_age` is set without keys, or where `seen` cannot be kept.
        """
        if self.max_age is not None and not self.keys:
            raise InvalidRequest(
                "a list of recalled engines is worth nothing without a key that signs it: set ENGINEFARM_TRUSTED_KEYS, "
                "or name --trusted-key"
            )
        if self.keys:
            trusted = TrustedKeys.of_files(self.keys)
            provenance = _verified_provenance(farm, engine, trusted)
            self._see_list(farm, engine, trusted, provenance)
        # Also without insistence, and also if the farm's list of today could not be had.
        try:
            lists = self.seen.all()
        except OSError as error:
            lists = []
            self._without_memory(error)
        for revocations in lists:
            revocations.require_not_revoked(engine.key, engine.manifest)

    def _see_list(self, farm: Farm, engine: Engine, trusted: TrustedKeys, provenance: Provenance) -> None:
        """Fetch and remember the farm's list; all of its checks must pass if this node insists."""
        try:
            revocations = verify_list(trusted, farm.revocations())
            if self.max_age is not None:
                require_fresh(revocations, max_age=timedelta(seconds=self.max_age))
                self._require_list_of_its_farm(farm, engine, trusted, provenance, revocations)
            self.seen.remember(revocations)
        except OSError as error:
            self._without_memory(error)
        except EnginefarmError:
            # A farm of an earlier release has no list, and the list of a mirror may be an old one.
            if self.max_age is not None:
                raise

    def _without_memory(self, error: OSError) -> None:
        """Raises InvalidRequest if this node insists: without the lists that it saw it would accept an older one."""
        text = f"the lists of recalled engines that this node saw cannot be kept in {error.filename} ({error.strerror})"
        if self.max_age is not None:
            raise InvalidRequest(f"{text}: name a folder that can be written in ENGINEFARM_CACHE") from error
        _log.warning("%s; ENGINEFARM_CACHE names another folder", text)

    def _require_list_of_its_farm(
        self, farm: Farm, engine: Engine, trusted: TrustedKeys, provenance: Provenance, revocations: RevocationList
    ) -> None:
        # A node may trust several farms. The good list of another one says nothing about this engine.
        if revocations.farm == provenance.farm:
            return
        summary = farm.verification_summary(engine.key)
        if summary is not None:
            attestation = farm.attestation(engine.key)
            _signer, verifier = verify_summary(
                trusted, summary, attestation, key=engine.key, manifest=manifest_of(engine)
            )
            if verifier == revocations.farm:
                return
        raise IntegrityError(
            f"engine {engine.key[:12]} is signed by the farm {str(provenance.farm)[:100]!r}, and the list of recalled "
            f"engines is of {revocations.farm[:100]!r}: ask the farm that signed it"
        )


def _verified_provenance(farm: Farm, engine: Engine, trusted: TrustedKeys) -> Provenance:
    """Verify the attestation that `farm` has for `engine`.

    Afterwards everything in `engine` that decides on its use is signed: key, documents, spec, platform, manifest. It is
    called before any byte moves: the bytes are then checked against the manifest that was signed.
    """
    require_bound(engine)
    manifest = manifest_of(engine)
    attestation = farm.attestation(engine.key)
    try:
        provenance = verify_provenance(trusted, attestation, None, key=engine.key, manifest=manifest)
    except IntegrityError:
        # A farm that this one imported the engine from signed it. Then this farm signed that it verified that.
        summary = farm.verification_summary(engine.key)
        provenance = verify_provenance(trusted, attestation, summary, key=engine.key, manifest=manifest)
    require_as_signed(engine, provenance.statement.predicate)
    return provenance


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
