"""API keys: made here, shown once, kept as a hash."""

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
    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


# What a scope allows besides itself.
_INCLUDES = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.SUBMIT: frozenset({Scope.READ, Scope.SUBMIT}),
    Scope.ADMIN: frozenset(Scope),
}
_PREFIX = "ef"


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may do."""

    name: str | None
    scopes: frozenset[Scope]


OPEN = Caller(None, frozenset(Scope))  # a farm on loopback without any key


def create(session: Session, name: str, scopes: Iterable[Scope]) -> str:
    """A new key `ef_<id>_<secret>`. It cannot be shown again."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = ApiKeyRow(id=key_id, name=name, secret_hash=_hash(secret), scopes=[str(scope) for scope in scopes])
    session.add(row)
    return f"{_PREFIX}_{key_id}_{secret}"


def revoke(session: Session, name: str) -> bool:
    where = (ApiKeyRow.name == name, ApiKeyRow.revoked_at.is_(None))
    done = session.execute(update(ApiKeyRow).where(*where).values(revoked_at=now()))
    return bool(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def any_key(session: Session) -> bool:
    return bool(session.execute(select(func.count()).select_from(ApiKeyRow)).scalar_one())


def authenticate(session: Session, key: str) -> Caller | None:
    """Whose key this is; None if it is nobody's. Compares in constant time, also when the id is unknown."""
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    row = session.get(ApiKeyRow, key_id) if prefix == _PREFIX and key_id.isalnum() else None
    expected = row.secret_hash if row is not None and row.revoked_at is None else _hash("")
    matches = hmac.compare_digest(_hash(secret), expected)
    if row is None or row.revoked_at is not None or not matches:
        return None
    return Caller(row.name, frozenset().union(*(_INCLUDES[Scope(scope)] for scope in row.scopes)))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
