"""The keys that one farm signs with, signed with before, and imports from."""

from __future__ import annotations

from dataclasses import dataclass

from enginefarm.trust.attestation import TrustedKeys
from models.security.signing_key import SigningKey
from models.settings import Settings


@dataclass(frozen=True)
class FarmKeys:
    """Read once, when an API process starts."""

    signing: SigningKey | None
    old: TrustedKeys  # public keys that signed before
    imports: TrustedKeys  # public keys of farms whose engines this one imports

    @classmethod
    def of(cls, settings: Settings) -> FarmKeys:
        """Read the files that the settings name.

        Raises:
            ValueError: the signing key cannot be read, or is none.
            InvalidRequest: a public key cannot be read, or is none.
        """
        signing = None
        if settings.signing_key:
            signing = SigningKey.of_file(settings.signing_key)
        return cls(
            signing=signing,
            old=TrustedKeys.of_files(settings.old_signing_keys),
            imports=TrustedKeys.of_files(settings.import_trusted_keys),
        )
