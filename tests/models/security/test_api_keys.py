"""Keys expire, are replaced with an overlap, give their names up, and show their last use, on both databases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from enginefarm.contract.errors import NotFound, Unauthenticated
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ApiKeyRow
from models.security import api_keys as access
from models.security.api_keys import Scope
from models.security.key_format import prefix
from tests.migrated import migrated_sqlite

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create_migrated()
    else:
        url = migrated_sqlite(tmp_path_factory.mktemp("keys") / "catalogue.db")
    database = Database(url)
    yield database
    database.close()
    if request.param == "postgresql":
        request.getfixturevalue("postgres").drop(url)


@pytest.fixture
def database(module_database: Database) -> Database:
    """Without any key."""
    with module_database.write() as session:
        session.execute(delete(ApiKeyRow))
    return module_database


def create(
    database: Database, name: str = "ci", scopes: Iterable[Scope] = (Scope.READ,), *, lifetime: timedelta | None = None
) -> str:
    with database.write() as session:
        return access.create(session, name, scopes, lifetime=lifetime)


def rotate(database: Database, name: str = "ci", *, overlap: timedelta = HOUR) -> str:
    with database.write() as session:
        return access.rotate(session, name, overlap=overlap)


def revoke(database: Database, name_or_prefix: str) -> bool:
    with database.write() as session:
        return access.revoke(session, name_or_prefix)


def expire(database: Database, key: str) -> None:
    """Let the lifetime of the key be over."""
    with database.write() as session:
        session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key.split("_")[1]).values(expires_at=now(-1)))


def refusal(database: Database, key: str) -> str | None:
    """Why the key is refused; None if it is accepted."""
    with database.read() as session:
        in_memory = access.match(access.active_keys(session), key)
        try:
            assert access.authenticate(session, key) == in_memory
        except Unauthenticated as error:
            assert in_memory is None
            return error.detail
    return None


def states(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        return [(key.name, key.state) for key in access.list_keys(session)]


def test_a_key_is_accepted_until_it_expires(database: Database) -> None:
    key = create(database, lifetime=HOUR)
    assert refusal(database, key) is None
    expire(database, key)
    assert re.match(r"this API key expired at 20\d\d-", refusal(database, key) or "")
    assert states(database) == [("ci", "expired")]


def test_only_the_owner_of_a_secret_learns_that_it_was_revoked(database: Database) -> None:
    key = create(database)
    wrong_secret = key.rpartition("_")[0] + "_" + create(database, "other").rpartition("_")[2]
    assert revoke(database, "ci")
    assert (refusal(database, key) or "").startswith("this API key was revoked at 20")
    assert (refusal(database, wrong_secret) or "").startswith("this is not a complete API key")
    old_form = key[: len("ef_0123456789ab_")] + "A" * 43
    assert (refusal(database, old_form) or "").startswith("this API key is unknown")


def test_a_name_has_one_current_key(database: Database) -> None:
    create(database)
    with pytest.raises(IntegrityError):
        create(database)


@pytest.mark.parametrize("end", [revoke, expire])
def test_a_key_that_ended_gives_its_name_up(database: Database, end: object) -> None:
    first = create(database)
    if end is revoke:
        revoke(database, "ci")
    else:
        expire(database, first)
    second = create(database)
    assert refusal(database, first) is not None
    assert refusal(database, second) is None
    assert states(database)[1] == ("ci", "active")


def test_a_replaced_key_is_accepted_during_the_overlap(database: Database) -> None:
    old = create(database, scopes=[Scope.SUBMIT])
    new = rotate(database)
    assert (refusal(database, old), refusal(database, new)) == (None, None)
    assert states(database) == [("ci", "replaced"), ("ci", "active")]
    with database.read() as session:
        replaced, current = access.list_keys(session)
        assert access.authenticate(session, new).caller == access.authenticate(session, old).caller
    assert current.expires_at is None
    assert replaced.expires_at is not None
    assert timedelta(minutes=59) < replaced.expires_at - datetime.now(UTC) < timedelta(minutes=61)
    expire(database, old)
    assert (refusal(database, old) is None, refusal(database, new)) == (False, None)


def test_a_rotation_without_overlap_ends_the_old_key_at_once(database: Database) -> None:
    old = create(database)
    new = rotate(database, overlap=timedelta())
    assert (refusal(database, old) is None, refusal(database, new)) == (False, None)


def test_a_rotation_prolongs_no_key_and_keeps_the_lifetime(database: Database) -> None:
    old = create(database, lifetime=HOUR)
    rotate(database, overlap=48 * HOUR)
    with database.read() as session:
        replaced, current = access.list_keys(session)
    assert replaced.prefix == prefix(old.split("_")[1])
    assert replaced.expires_at is not None
    assert current.expires_at is not None
    assert replaced.expires_at - replaced.created_at <= HOUR + timedelta(seconds=1)
    assert abs((current.expires_at - current.created_at) - HOUR) < timedelta(seconds=1)


@pytest.mark.parametrize("end", [None, revoke, expire])
def test_only_an_active_key_is_rotated(database: Database, end: object) -> None:
    key = create(database, "other" if end is None else "ci")
    if end is revoke:
        revoke(database, "ci")
    elif end is expire:
        expire(database, key)
    with pytest.raises(NotFound, match="no active key named 'ci'"):
        rotate(database)


def test_revoking_a_name_ends_its_replaced_keys_too(database: Database) -> None:
    keys = [create(database), rotate(database), rotate(database)]
    assert revoke(database, "ci")
    assert None not in [refusal(database, key) for key in keys]
    assert not revoke(database, "ci")


def test_revoking_a_prefix_ends_that_key_alone(database: Database) -> None:
    old, new = create(database), rotate(database)
    assert revoke(database, old.rpartition("_")[0])
    assert (refusal(database, old) is None, refusal(database, new)) == (False, None)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\x1b[31m", "nul\0", "ef_0123456789ab", "\u202eabc"])
def test_a_name_that_would_spoil_a_log_or_look_like_a_key_is_refused(database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 64 printable characters"):
        create(database, name)


def test_the_last_use_is_written_at_most_once_a_minute(database: Database) -> None:
    key_id = create(database).split("_")[1]

    def use() -> datetime | None:
        with database.write() as session:
            access.note_use(session, {key_id, "000000000000"})
        with database.read() as session:
            return access.list_keys(session)[0].last_used_at

    first = use()
    assert first is not None
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)
    assert use() == first
    with database.write() as session:
        session.execute(update(ApiKeyRow).values(last_used_at=now(-61)))
    assert (use() or first) > first
