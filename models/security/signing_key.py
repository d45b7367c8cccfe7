"""The farm's signing key: an Ed25519 private key in a PEM file that only the control plane reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from enginefarm.trust.attestation import PAYLOAD_TYPE, Statement
from enginefarm.trust.key_files import read_key_file
from enginefarm.wire.revocations import PAYLOAD_TYPE as REVOCATIONS
from enginefarm.wire.revocations import RevocationList


class SigningKey:
    """Signs statements about engines and the list of recalled ones; `public` is what others check them with."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        # Here and in `_signed`, not above: it loads the SDK of each cloud that is installed.
        from securesystemslib.signer import CryptoSigner

        self._signer = CryptoSigner(private)
        self.public: Ed25519PublicKey = private.public_key()

    @classmethod
    def of_file(cls, path: Path) -> SigningKey:
        """Read the key of a PEM file.

        Raises:
            ValueError: it cannot be read or holds no Ed25519 private key. The text does not quote the file.
        """
        try:
            private = load_pem_private_key(read_key_file(path), password=None)
        except OSError as error:
            raise ValueError(f"the signing key {path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: a key with a password
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError(
                f"{path} is not an Ed25519 private key in PEM without a password: "
                "`python -m api.signing create FILE` makes one"
            )
        return cls(private)

    def sign(self, statement: Statement) -> dict[str, Any]:
        """Return a signed DSSE envelope. Ed25519 is deterministic: the same statement gives the same envelope."""
        return self._signed(statement.payload(), PAYLOAD_TYPE)

    def sign_revocations(self, revocations: RevocationList) -> dict[str, Any]:
        """Return a signed DSSE envelope of the list. Its payload type keeps it from passing for a statement."""
        return self._signed(revocations.payload(), REVOCATIONS)

    def _signed(self, payload: bytes, payload_type: str) -> dict[str, Any]:
        from securesystemslib.dsse import Envelope

        envelope = Envelope(payload, payload_type, {})
        envelope.sign(self._signer)
        signed: dict[str, Any] = envelope.to_dict()
        return signed


def create(path: Path) -> SigningKey:
    """Create a key in a new file that only its owner can read.

    Raises:
        FileExistsError: `path` exists; a key is never overwritten.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # O_EXCL with the mode: there is no moment in which others could open the file, and no link is followed.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
    return SigningKey(private)
