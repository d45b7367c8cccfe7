"""Secret scanners recognize keys, typing errors are told from wrong keys, and keys of earlier releases are read."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from models.security import key_format
from models.security.key_format import SCANNER_PATTERN, new_key, parse, text_of

SECURITY_PAGE = Path(__file__).parents[3] / "docs" / "security.md"
OLD_KEY = "ef_0123456789ab_" + "aB-_" * 10 + "xyz"  # 43 characters, as `secrets.token_urlsafe(32)` writes them


def test_a_new_key_matches_the_documented_pattern() -> None:
    assert f"`{SCANNER_PATTERN}`" in SECURITY_PAGE.read_text()
    for _ in range(100):
        key = text_of(new_key())
        assert re.findall(SCANNER_PATTERN, f"export ENGINEFARM_API_KEY='{key}' # comment") == [key]


def test_the_checksum_is_the_documented_one() -> None:
    """As a scanner computes it: CRC-32 of all that comes before, in base 62 with digits, capitals, small letters."""
    key = text_of(new_key())
    number = 0
    for character in key[-6:]:
        number = number * 62 + "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".index(character)
    assert number == zlib.crc32(key[:-6].encode())


def test_a_key_with_a_typing_error_is_no_key() -> None:
    key = text_of(new_key())
    assert parse(key) is not None
    for position in range(len("ef_"), len(key)):
        other = "1" if key[position] == "0" else "0"
        assert parse(key[:position] + other + key[position + 1 :]) is None
    for text in (key[:-1], key + "0", " " + key, key + "\n", key.upper(), "ef_", "", "ef_\0", "\ud800"):
        assert parse(text) is None, text


def test_a_key_of_an_earlier_release_is_read() -> None:
    parsed = parse(OLD_KEY)
    assert parsed is not None
    assert (parsed.id, text_of(parsed)) == ("0123456789ab", OLD_KEY)


@pytest.mark.parametrize(
    ("text", "key_id"), [("ef_0123456789ab", "0123456789ab"), ("ef_0123", None), ("ci", None), (OLD_KEY, None)]
)
def test_the_public_part_names_a_key(text: str, key_id: str | None) -> None:
    assert key_format.id_of_prefix(text) == key_id
