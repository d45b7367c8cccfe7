"""API keys: created here, shown once, stored as a SHA-256 hash.

A fast hash is enough, because the secret is 256 random bits and not a password that could be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ApiKeyRow


class Scope(StrEnum):
    """What a key allows. ADMIN includes the others, SUBMIT includes READ."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


_INCLUDES = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.SUBMIT: frozenset({Scope.READ, Scope.SUBMIT}),
    Scope.ADMIN: frozenset(Scope),
}
_PREFIX = "ef"


@dataclass(frozen=True)
class Caller:
    """The sender of a request; `name` is that of the key, None without a key."""

    name: str | None
    scopes: frozenset[Scope]


# A farm without any key, which listens on loopback only: everybody on the machine may do everything.
OPEN = Caller(None, frozenset(Scope))


def create(session: Session, name: str, scopes: Iterable[Scope]) -> str:
    """Store a new key and return it as `ef_<id>_<secret>`. It cannot be shown again."""
    # The id finds the row, so that one hash is compared and not that of every key. Hex has no underscore.
    key_id = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    row = ApiKeyRow(id=key_id, name=name, secret_hash=_hash(secret), scopes=[str(scope) for scope in scopes])
    session.add(row)
    return f"{_PREFIX}_{key_id}_{secret}"


def revoke(session: Session, name: str) -> bool:
    """Revoke all keys of this name; returns False if there is none."""
    # The row stays: the name of the key is in the records of builds, and `any_key` counts it.
    where = (ApiKeyRow.name == name, ApiKeyRow.revoked_at.is_(None))
    result = session.execute(update(ApiKeyRow).where(*where).values(revoked_at=now()))
    return bool(result.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def any_key(session: Session) -> bool:
    """Return True if a key was ever created, revoked ones included.

    Revoking the last key must not open the farm to everybody.
    """
    return bool(session.execute(select(func.count()).select_from(ApiKeyRow)).scalar_one())


def authenticate(session: Session, key: str) -> Caller | None:
    """Return the caller whose key this is; None if the key is unknown, revoked or wrong."""
    prefix, _, id_and_secret = key.partition("_")
    key_id, _, secret = id_and_secret.partition("_")  # the id has no underscore, the secret may have some
    row = None
    if prefix == _PREFIX and key_id.isalnum():  # a NUL or a lone surrogate would fail in the database
        row = session.get(ApiKeyRow, key_id)
    # Compare in constant time, and with an unknown id too: the time of an answer must not tell which ids exist.
    expected = _hash("")
    if row is not None and row.revoked_at is None:
        expected = row.secret_hash
    matches = hmac.compare_digest(_hash(secret), expected)
    if row is None or row.revoked_at is not None or not matches:
        return None
    scopes: frozenset[Scope] = frozenset()
    for scope in row.scopes:
        scopes |= _INCLUDES[Scope(scope)]
    return Caller(row.name, scopes)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
