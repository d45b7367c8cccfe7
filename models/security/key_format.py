"""The form of API keys: `ef_<id>_<secret><checksum>`, which secret scanners recognize and which tells typing errors.

The id has 12 hexadecimal digits and is public: it finds the row, and stands in logs and lists. The secret has 43
characters of base 62, which is 256 random bits. The checksum is the CRC-32 of everything before it, in six characters
of base 62: a scanner can tell a key from a look-alike without asking the farm. Keys of earlier releases have 43
characters of base64url in place of secret and checksum, and stay valid.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from dataclasses import dataclass

# For secret scanners; docs/security.md has the same.
SCANNER_PATTERN = r"\bef_[0-9a-f]{12}_[0-9A-Za-z]{49}\b"
_KEY = re.compile(r"ef_(?P<id>[0-9a-f]{12})_(?P<secret>[0-9A-Za-z]{49}|[0-9A-Za-z_-]{43})")
_PREFIX = re.compile(r"ef_(?P<id>[0-9a-f]{12})")
_BASE_62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6


@dataclass(frozen=True)
class ParsedKey:
    """A text that has the form of a key. `secret` includes the checksum."""

    id: str
    secret: str


def new_key() -> ParsedKey:
    """A random key."""
    key_id = secrets.token_hex(6)
    secret = "".join(secrets.choice(_BASE_62) for _ in range(_SECRET_LENGTH))
    return ParsedKey(key_id, secret + _checksum(f"ef_{key_id}_{secret}"))


def parse(key: str) -> ParsedKey | None:
    """The parts of the key; None if the text has not the form of one, or its checksum is wrong."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    has_checksum = len(match["secret"]) == _SECRET_LENGTH + _CHECKSUM_LENGTH
    if has_checksum and _checksum(key[:-_CHECKSUM_LENGTH]) != key[-_CHECKSUM_LENGTH:]:
        return None
    return ParsedKey(match["id"], match["secret"])


def text_of(key: ParsedKey) -> str:
    """The key as its owner sends it."""
    return f"ef_{key.id}_{key.secret}"


def prefix(key_id: str) -> str:
    """The public part of the key, for logs and lists."""
    return f"ef_{key_id}"


def id_of_prefix(text: str) -> str | None:
    """The id in the public part of a key; None if the text is something else."""
    match = _PREFIX.fullmatch(text)
    return match["id"] if match else None


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_BASE_62))
        digits = _BASE_62[digit] + digits
    return digits
