"""`python -m api.keys`: what it prints and what it refuses, each refusal one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.keys import main
from migrations.upgrade import set_up
from models.exit_codes import ExitCode
from models.security.key_format import SCANNER_PATTERN
from models.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    environment = {
        "ENGINEFARM_DATABASE_URL": f"sqlite:///{folder / 'catalogue.db'}",
        "ENGINEFARM_STORE_URL": f"file://{folder / 'store'}",
        "ENGINEFARM_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    set_up(Settings.from_environment(environment))
    return environment


@pytest.fixture
def keys(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Keys:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Keys()


class Keys:
    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    def printed(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def refusal(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code != 0
        assert "Traceback" not in result.output
        return result.output or str(result.exception)

    def line(self, name: str) -> list[str]:
        """The cells of the last line of `list` with this name."""
        lines = [line for line in self.printed("list").splitlines() if line.startswith(name + " ")]
        return re.split(r"  +", lines[-1])


def test_a_key_is_created_listed_rotated_and_revoked(keys: Keys) -> None:
    first = keys.printed("create", "ci", "--scope", "submit", "--expires", "90d")
    assert re.fullmatch(SCANNER_PATTERN, first)
    name, prefix, scopes, state, created, expires, last_used = keys.line("ci")
    assert (name, prefix, scopes, state, last_used) == ("ci", first.rpartition("_")[0], "submit", "active", "-")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\dZ", created)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\dZ", expires)
    assert first.rpartition("_")[2] not in keys.printed("list")

    assert "there is an active key named 'ci'" in keys.refusal("create", "ci")
    second = keys.printed("rotate", "ci", "--overlap", "24h")
    assert second != first
    assert [line.split()[3] for line in keys.printed("list").splitlines() if line.startswith("ci ")] == [
        "replaced", "active",
    ]  # fmt: skip
    keys.printed("revoke", first.rpartition("_")[0])
    assert keys.line("ci")[3] == "active"
    keys.printed("revoke", "ci")
    assert keys.line("ci")[3] == "revoked"
    assert "no active key" in keys.refusal("rotate", "ci")
    assert "no active key" in keys.refusal("revoke", "ci")
    assert re.fullmatch(SCANNER_PATTERN, keys.printed("create", "ci")), "the name of a revoked key is free"


@pytest.mark.parametrize("value", ["90", "d", "-1d", "0d", "1.5h", "99999w", "999999999d", "90 d", "٣d"])
def test_a_lifetime_that_is_none_is_refused(keys: Keys, value: str) -> None:
    assert "expected a" in keys.refusal("create", "other", f"--expires={value}")


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65, "ef_0123456789ab"])
def test_a_name_that_cannot_be_used_is_refused(keys: Keys, name: str) -> None:
    assert "expected 1 to 64 printable characters" in keys.refusal("create", name)


def test_a_catalogue_that_is_not_there_is_refused(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEFARM_DATABASE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    assert "run `python -m migrations.upgrade`" in keys.refusal("list")
    monkeypatch.setenv("ENGINEFARM_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    assert "check ENGINEFARM_DATABASE_URL" in keys.refusal("list")


def test_a_key_that_cannot_be_printed_is_said_to_be_lost(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "api.keys", "create", "lost"],
            cwd=CHECKOUT, env={**os.environ, **environment}, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert ended.returncode == ExitCode.UNAVAILABLE
    assert ended.stderr == (
        "enginefarm: standard output takes nothing: No space left on device; the key 'lost' exists, but nobody has it: "
        "`revoke` it and create another\n"
    )
