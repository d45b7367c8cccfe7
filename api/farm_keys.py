"""The keys that one farm signs with, signed with before, and imports from."""

from __future__ import annotations

import logging
import stat
from dataclasses import dataclass

from enginefarm.contract.errors import InvalidRequest
from enginefarm.trust.attestation import TrustedKeys
from models.security.signing_key import SigningKey
from models.settings import Settings
from models.start import SettingsError

log = logging.getLogger(__name__)


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
            SettingsError: a file cannot be read, or has no such key. The text has a line for each setting.
        """
        signing = None
        old = imports = TrustedKeys([])
        problems = []
        try:
            if settings.signing_key:
                signing = SigningKey.of_file(settings.signing_key)
                # A warning only: Kubernetes mounts secrets so, in containers with one user.
                if settings.signing_key.stat().st_mode & stat.S_IROTH:
                    log.warning(
                        "ENGINEFARM_SIGNING_KEY: every user of this machine can read %s: chmod 600",
                        settings.signing_key,
                    )
        except ValueError as error:
            problems.append(f"ENGINEFARM_SIGNING_KEY: {error}")
        try:
            old = TrustedKeys.of_files(settings.old_signing_keys)
        except InvalidRequest as error:
            problems.append(f"ENGINEFARM_OLD_SIGNING_KEYS: {error}")
        try:
            imports = TrustedKeys.of_files(settings.import_trusted_keys)
        except InvalidRequest as error:
            problems.append(f"ENGINEFARM_IMPORT_TRUSTED_KEYS: {error}")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(signing=signing, old=old, imports=imports)
