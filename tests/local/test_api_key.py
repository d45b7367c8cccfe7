"""`make up`: only its user may use the farm, by a key in a file that others cannot read."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from enginefarm.client.farm import Farm
from local.__main__ import _HOW_TO
from local.api_key import NAME, api_key_of
from local.farm import LocalFarm
from models.catalogue.database import Database
from models.security import api_keys as access
from models.security.api_keys import Scope
from tests.migrated import migrated_sqlite


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    yield database
    database.close()


def states(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {key.prefix: key.state for key in access.list_keys(session)}


def test_a_local_farm_serves_nobody_without_its_key(tmp_path: Path) -> None:
    with LocalFarm(tmp_path / "state", workers=0) as local:
        assert (mode(local.api_key_file), mode(local.state)) == (0o600, 0o700)
        assert httpx.get(f"{local.url}/v1/builds").status_code == 401
        with Farm(local.url, local.api_key) as farm:
            assert farm.workers() == []
        # As the printed commands read it.
        printed = _HOW_TO.format(url=local.url, state=local.state, api_key_file=local.api_key_file)
        [command] = [line.strip() for line in printed.splitlines() if "ENGINEFARM_API_KEY" in line]
        shell = subprocess.run(
            ["sh", "-c", f'{command}; echo "$ENGINEFARM_API_KEY"'], capture_output=True, text=True, check=True
        )
        assert shell.stdout.strip() == local.api_key
        assert local.api_key not in printed
        # Other users see the arguments of processes.
        for process in local.processes.values():
            assert (local.api_key or "").encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_the_next_start_uses_the_same_key(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    key = api_key_of(database, file)
    file.chmod(0o644)
    assert api_key_of(database, file) == key
    assert mode(file) == 0o600
    with database.read() as session:
        assert access.authenticate(session, key).caller.scopes == frozenset(Scope)


@pytest.mark.parametrize("content", [None, "", "ef_0123456789ab_" + "A" * 43, "\0"])
def test_a_lost_key_is_revoked_and_replaced(database: Database, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "api-key"
    with database.write() as session:
        other = access.create(session, "of a user", [Scope.READ])
    lost = api_key_of(database, file)
    file.unlink()
    if content is not None:
        file.write_text(content)
    key = api_key_of(database, file)
    assert file.read_text().strip() == key
    assert mode(file) == 0o600
    expected = {other: "active", lost: "revoked", key: "active"}
    assert states(database) == {text.rpartition("_")[0]: state for text, state in expected.items()}


def test_a_link_in_place_of_the_file_is_not_written_through(database: Database, tmp_path: Path) -> None:
    file, target = tmp_path / "api-key", tmp_path / "target"
    target.write_text("of another user")
    file.symlink_to(target)
    api_key_of(database, file)
    assert target.read_text() == "of another user"
    assert not file.is_symlink()
    with database.read() as session:
        assert [key.name for key in access.list_keys(session)] == [NAME]
