"""API keys: created here, shown once, stored as a SHA-256 hash.

A fast hash is enough, because the secret is 256 random bits and not a password that could be guessed.

A name has one current key. A rotation gives it a new one, and the replaced key is accepted until it expires. A revoked,
an expired and a replaced key keep their rows: the name of a key is in the records of builds, and `any_key` counts them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound, Unauthenticated
from models.catalogue.clock import now
from models.catalogue.rows import ApiKeyRow
from models.security import key_format

_USE_SECONDS = 60.0  # the time of a key's last use is written at most this often
_MAX_NAME = 64


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


@dataclass(frozen=True)
class Caller:
    """The sender of a request; `name` is that of the key, None without a key."""

    name: str | None
    scopes: frozenset[Scope]


# A farm without any key, which listens on loopback only: everybody on the machine may do everything.
OPEN = Caller(None, frozenset(Scope))


@dataclass(frozen=True)
class ActiveKey:
    """A key that is accepted now."""

    id: str
    secret_hash: str
    caller: Caller


@dataclass(frozen=True)
class ListedKey:
    """A key as its operator sees it."""

    name: str
    prefix: str
    scopes: tuple[str, ...]
    state: str  # active, replaced (accepted until it expires), expired or revoked
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


def create(session: Session, name: str, scopes: Iterable[Scope], *, lifetime: timedelta | None = None) -> str:
    """Store a new key and return it. It cannot be shown again.

    Args:
        lifetime: None: it is valid until it is revoked.

    Raises:
        ValueError: the name is empty, too long, not printable, or looks like a key.
        IntegrityError: the name has a current key that is neither revoked nor expired.
    """
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or name.startswith("ef_"):
        raise ValueError(
            f"the name {name[:_MAX_NAME]!r} cannot be used: expected 1 to {_MAX_NAME} printable characters that do not "
            "begin with 'ef_'"
        )
    # An expired key gives its name up, as a revoked one does.
    expired = (ApiKeyRow.name == name, ApiKeyRow.expires_at <= now(), ApiKeyRow.replaced_at.is_(None))
    session.execute(update(ApiKeyRow).where(*expired).values(replaced_at=now()))
    return _store_new(session, name, [str(scope) for scope in scopes], lifetime)


def rotate(session: Session, name: str, *, overlap: timedelta, lifetime: timedelta | None = None) -> str:
    """Store a new key with the name and the scopes of the current one, and return it.

    Args:
        overlap: how long the replaced key is still accepted, unless it expires earlier.
        lifetime: of the new key; None: as long as the replaced one had when it was created.

    Raises:
        NotFound: the name has no key that is accepted now.
    """
    is_current = (ApiKeyRow.name == name, ApiKeyRow.replaced_at.is_(None), *_accepted())
    # Locked, so that of two rotations at once the second replaces the key that the first one made.
    current = session.execute(select(ApiKeyRow).where(*is_current).with_for_update()).scalar_one_or_none()
    if current is None:
        raise NotFound(f"there is no active key named {name!r}: `python -m api.keys create` makes one")
    if lifetime is None and current.expires_at is not None:
        lifetime = current.expires_at - current.created_at
    end = now(overlap.total_seconds())
    earlier_end = case((ApiKeyRow.expires_at < end, ApiKeyRow.expires_at), else_=end)
    this_row = ApiKeyRow.id == current.id
    session.execute(update(ApiKeyRow).where(this_row).values(replaced_at=now(), expires_at=earlier_end))
    return _store_new(session, name, list(current.scopes), lifetime)


def _store_new(session: Session, name: str, scopes: list[str], lifetime: timedelta | None) -> str:
    if lifetime is not None and lifetime <= timedelta():
        raise ValueError("a key must be valid for some time: expected a lifetime of a minute or more")
    key = key_format.new_key()
    row = ApiKeyRow(id=key.id, name=name, secret_hash=_hash(key.secret), scopes=scopes)
    if lifetime is not None:
        row.expires_at = now(lifetime.total_seconds())
    session.add(row)
    session.flush()  # a name that is taken is refused here, not at the commit
    return key_format.text_of(key)


def revoke(session: Session, name_or_prefix: str) -> bool:
    """Revoke all keys of this name, or the one with this public part `ef_<id>`; returns False if there is none."""
    key_id = key_format.id_of_prefix(name_or_prefix)
    which = ApiKeyRow.name == name_or_prefix if key_id is None else ApiKeyRow.id == key_id
    result = session.execute(update(ApiKeyRow).where(which, ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now()))
    return bool(result.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def any_key(session: Session) -> bool:
    """Return True if a key was ever created, revoked ones included.

    Revoking the last key must not open the farm to everybody.
    """
    return bool(session.execute(select(func.count()).select_from(ApiKeyRow)).scalar_one())


def active_keys(session: Session) -> dict[str, ActiveKey]:
    """Every key that is accepted now, by id."""
    columns = (ApiKeyRow.id, ApiKeyRow.secret_hash, ApiKeyRow.name, ApiKeyRow.scopes)
    rows = session.execute(select(*columns).where(*_accepted()))
    return {key_id: ActiveKey(key_id, secret_hash, _caller(name, scopes)) for key_id, secret_hash, name, scopes in rows}


def match(keys: Mapping[str, ActiveKey], key: str) -> ActiveKey | None:
    """Which of `keys` it is; None if it is none of them."""
    parsed = key_format.parse(key)
    active = keys.get(parsed.id) if parsed else None
    # Compare in constant time, and with an unknown id too: the time of an answer must not tell how much of a secret is
    # right, or which ids exist.
    secret = parsed.secret if parsed else ""
    matches = hmac.compare_digest(_hash(secret), active.secret_hash if active else _NO_HASH)
    return active if matches else None


def authenticate(session: Session, key: str) -> ActiveKey:
    """The key as the catalogue has it now.

    Raises:
        Unauthenticated: it has not the form of a key, or is unknown, wrong, revoked or expired. Only the owner of the
            secret is told which of the last two.
    """
    parsed = key_format.parse(key)
    row = session.get(ApiKeyRow, parsed.id) if parsed else None
    secret = parsed.secret if parsed else ""
    matches = hmac.compare_digest(_hash(secret), row.secret_hash if row else _NO_HASH)
    if parsed is None:
        raise Unauthenticated("this is not a complete API key of a farm: copy it again, or ask the farm's operator")
    if row is None or not matches:
        raise Unauthenticated("this API key is unknown; ask the farm's operator for a new one")
    if row.revoked_at is not None:
        raise Unauthenticated(
            f"this API key was revoked at {row.revoked_at:%Y-%m-%d %H:%M}Z; ask the farm's operator for a new one"
        )
    if row.expires_at is not None and row.expires_at <= session.execute(select(now())).scalar_one():
        raise Unauthenticated(
            f"this API key expired at {row.expires_at:%Y-%m-%d %H:%M}Z; ask the farm's operator for a new one"
        )
    return ActiveKey(row.id, row.secret_hash, _caller(row.name, row.scopes))


def list_keys(session: Session) -> list[ListedKey]:
    """Every key, the oldest first."""
    time = session.execute(select(now())).scalar_one()
    return [
        ListedKey(
            name=row.name,
            prefix=key_format.prefix(row.id),
            scopes=tuple(row.scopes),
            state=_state(row, time),
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=row.last_used_at,
        )
        for row in session.execute(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id)).scalars()
    ]


def note_use(session: Session, key_ids: Collection[str]) -> None:
    """Record that these keys were used just now, unless that was recorded within the last minute."""
    due = or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < now(-_USE_SECONDS))
    # One statement for each, in one order: two API processes that lock the same rows do not wait for each other.
    for key_id in sorted(key_ids):
        session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id, due).values(last_used_at=now()))


def _accepted() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now()))


def _state(row: ApiKeyRow, time: datetime) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= time:
        return "expired"
    return "active" if row.replaced_at is None else "replaced"


def _caller(name: str, granted: Iterable[str]) -> Caller:
    scopes: frozenset[Scope] = frozenset()
    for scope in granted:
        scopes |= _INCLUDES[Scope(scope)]
    return Caller(name, scopes)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


_NO_HASH = _hash("no key has this secret")
