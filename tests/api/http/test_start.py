"""A start of the API, of `python -m api.keys` or `migrations.upgrade` that fails: one line, and an exit code."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.__main__ import main
from api.app import create_app
from api.http.listening import listening_sockets
from api.http.server import Server, server_config
from api.signing import main as signing
from migrations.upgrade import main as upgrade
from models.catalogue.database import Database
from models.exit_codes import ExitCode
from tests.api.published import settings_in
from tests.migrated import set_up_new_farm
from toolchains.registry import all_toolchains

CHECKOUT = Path(__file__).resolve().parents[3]

Set = Callable[..., None]


@pytest.fixture
def set_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets the settings of a farm in `tmp_path`, and others without the prefix."""

    def set_all(**settings: str) -> None:
        own = {
            "DATABASE_URL": f"sqlite:///{tmp_path}/catalogue.db",
            "STORE_URL": f"file://{tmp_path}/store",
            "BROKER_URL": "redis://127.0.0.1:1/0",
            "PORT": "0",
        }
        for name, value in (own | settings).items():
            monkeypatch.setenv(f"ENGINEFARM_{name}", value)
        monkeypatch.setattr(Server, "run", lambda *_: pytest.fail("the API serves"))

    return set_all


def failure(capsys: pytest.CaptureFixture[str], program: Callable[[], None] = main) -> tuple[object, str]:
    """The exit code and the text of a program that must end."""
    with pytest.raises(SystemExit) as ended:
        program()
    return ended.value.code, capsys.readouterr().err


def other_key(folder: Path) -> str:
    """A file with a key of another kind; beside it, `curve` has one of a curve that the library does not know."""
    path = folder / "p256.pem"
    key = generate_private_key(SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    binary = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    curve = bytes.fromhex("2a8648ce3d030107")  # its object identifier, 1.2.840.10045.3.1.7
    unknown = base64.encodebytes(binary.replace(curve, curve[:-1] + b"\x7f"))
    (folder / "curve").write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + unknown + b"-----END PRIVATE KEY-----\n")
    return str(path)


@pytest.mark.parametrize(
    ("name", "value", "code", "line"),
    [
        (
            "SIGNING_KEY",
            "/nonexistent/key.pem",
            78,
            "ENGINEFARM_SIGNING_KEY: the signing key /nonexistent",
        ),
        (
            "SIGNING_KEY",
            "{folder}",
            78,
            "ENGINEFARM_SIGNING_KEY: the signing key {folder} cannot be read: Is",
        ),
        (
            "SIGNING_KEY",
            "{folder}/text",
            78,
            "ENGINEFARM_SIGNING_KEY: {folder}/text is not an Ed25519",
        ),
        ("SIGNING_KEY", "{other}", 78, "ENGINEFARM_SIGNING_KEY: {other} is not an Ed25519 private key in PEM"),
        (
            "OLD_SIGNING_KEYS",
            "{folder}/none",
            78,
            "ENGINEFARM_OLD_SIGNING_KEYS: trusted key {folder}/none cannot",
        ),
        ("SIGNING_KEY", "{folder}/pipe", 78, "ENGINEFARM_SIGNING_KEY: {folder}/pipe is not an Ed25519 private key"),
        ("SIGNING_KEY", "/dev/zero", 78, "ENGINEFARM_SIGNING_KEY: the signing key /dev/zero cannot be read: File too"),
        ("IMPORT_TRUSTED_KEYS", "{folder}/pipe", 78, "ENGINEFARM_IMPORT_TRUSTED_KEYS: {folder}/pipe is not a public"),
        ("OLD_SIGNING_KEYS", "/dev/zero", 78, "ENGINEFARM_OLD_SIGNING_KEYS: trusted key /dev/zero cannot be read"),
        ("SIGNING_KEY", "{folder}/curve", 78, "ENGINEFARM_SIGNING_KEY: {folder}/curve is not an Ed25519 private key"),
        (
            "MODEL_ROOTS",
            "{folder}/loop",
            78,
            "ENGINEFARM_MODEL_ROOTS={folder}/loop: expected a folder, and {folder}/loop",
        ),
        ("IMPORT_TRUSTED_KEYS", "{other}", 78, "ENGINEFARM_IMPORT_TRUSTED_KEYS: {other} is not a public key"),
        ("LINK_SECRET", "short", 78, "ENGINEFARM_LINK_SECRET: expected 16 bytes or more, got 5"),
        ("STORE_URL", "s3://bucket", 78, "ENGINEFARM_STORE_URL is an S3 bucket, so set ENGINEFARM_S3_ENDPOINT too"),
        ("MODELS_S3_ACCESS_KEY", "key", 78, ""),
        ("MAX_CONNECTIONS", "100000000", 78, "ENGINEFARM_MAX_CONNECTIONS=100000000 needs 100000512 open files"),
        ("HOST", "192.0.2.7", 77, "no API key exists, and ENGINEFARM_HOST=192.0.2.7"),
        ("PUBLIC_URL", "https://farm.example", 77, "no API key exists, and ENGINEFARM_PUBLIC_URL=https://farm.example"),
        ("DATABASE_URL", "sqlite:////proc/nowhere/catalogue.db", 69, ""),
        ("DATABASE_URL", "postgresql://farm:5eCr3t@127.0.0.1:1/farm", 69, ""),
        ("DATABASE_URL", "sqlite:///{folder}/empty.db", 77, "the catalogue is at version none, this program needs "),
        ("GC_HOUR", "3", 78, "unknown setting ENGINEFARM_GC_HOUR: did you mean ENGINEFARM_GC_HOURS?"),
    ],
)
def test_the_api_ends_with_one_line(
    set_variables: Set, name: str, value: str, code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_new_farm(settings_in(tmp_path))
    (tmp_path / "text").write_text("hunter2")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")  # without a writer
    parts = {"folder": str(tmp_path), "other": other_key(tmp_path)}
    extra = {"MODELS_S3_ENDPOINT": "http://127.0.0.1:1"} if name.startswith("MODELS_S3") else {}
    set_variables(**extra, **{name: value.format(**parts)})
    exit_code, printed = failure(capsys)
    assert exit_code == code
    assert printed.startswith("enginefarm api: " + line.format(**parts))
    assert printed.count("\n") == 1
    assert "hunter2" not in printed
    assert "5eCr3t" not in printed


def test_the_number_of_workers_of_another_program_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    assert server_config(FastAPI(), settings_in(tmp_path)).workers == 1


def test_the_start_loads_the_toolchains(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    set_up_new_farm(settings)
    all_toolchains.cache_clear()
    create_app(settings)
    assert all_toolchains.cache_info().currsize == 1, "the first submit waits for them"


def test_a_database_that_goes_away_during_the_start_is_an_outage(tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    settings = settings_in(tmp_path, DATABASE_URL=f"sqlite:///{folder}/catalogue.db")
    set_up_new_farm(settings)
    app = create_app(settings)
    folder.rename(tmp_path / "elsewhere")
    with TestClient(app, base_url="http://localhost:8000", client=("127.0.0.1", 1)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "cannot be opened" in answer.text


def test_a_taken_port_is_named(set_variables: Set, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_new_farm(settings_in(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        set_variables(PORT=str(port))
        code, line = failure(capsys)
    assert code == ExitCode.UNAVAILABLE
    assert line.startswith(f"enginefarm api: ENGINEFARM_HOST=127.0.0.1 and ENGINEFARM_PORT={port}: another program")


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "no-such-host.invalid", "a b", "x" * 70, "10.0.0.0/8"])
def test_a_host_that_is_none_of_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match=r"^ENGINEFARM_HOST=.* set 127\.0\.0\.1, an address of this machine, or"):
        listening_sockets(settings_in(tmp_path, HOST=host, PORT="0"))


def test_a_port_that_only_root_may_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, _address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("api.http.listening.socket.socket", Unprivileged)
    with pytest.raises(ValueError, match="ENGINEFARM_PORT=80: this user may not listen there: set a port from 1024 on"):
        listening_sockets(settings_in(tmp_path, PORT="80"))


def test_every_address_of_a_name_is_listened_on(tmp_path: Path) -> None:
    for host, number in (("localhost", 1), ("0.0.0.0", 1), ("127.0.0.1", 1)):
        sockets = listening_sockets(settings_in(tmp_path, HOST=host, PORT="0"))
        assert len(sockets) >= number
        for listener in sockets:
            listener.close()


def test_a_catalogue_of_a_newer_release_is_refused(
    set_variables: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_new_farm(settings_in(tmp_path))
    database = Database(f"sqlite:///{tmp_path}/catalogue.db")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    set_variables()
    monkeypatch.setattr(sys, "argv", ["upgrade"])
    for program in (main, upgrade):
        code, line = failure(capsys, program)
        assert code == ExitCode.REFUSED
        assert "the catalogue is at version 9999, which this program (" in line
        assert "a newer release migrated it" in line
        assert line.count("\n") == 1


@pytest.mark.parametrize("file", ["taken.pem", "none/key.pem"])
def test_a_signing_key_that_cannot_be_written_is_refused(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.pem").touch()
    monkeypatch.setattr(sys, "argv", ["signing", "create", str(tmp_path / file)])
    code, line = failure(capsys, signing)
    assert code == ExitCode.COMMAND_LINE
    assert line.startswith(f"enginefarm: {tmp_path / file}: ")
    assert line.endswith("; nothing was written: name a new file\n")


@pytest.mark.parametrize(
    "arguments", [["api"], ["workers"], ["migrations.upgrade"], ["migrations.roles"], ["api.keys", "list"]]
)
def test_a_process_with_wrong_settings_ends_with_a_line_for_each(arguments: list[str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEFARM_")}
    variables = {"ENGINEFARM_PROT": "80", "ENGINEFARM_STORE_URL": "s3://b/x?y", "ENGINEFARM_DATABASE_URL": ""}
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=CHECKOUT, env=clean | variables, capture_output=True, text=True
    )
    assert ended.returncode == ExitCode.SETTINGS
    assert ended.stdout == ""
    found = [line.partition(": ENGINEFARM_")[2].partition(" ")[0] for line in ended.stderr.splitlines()[1:]]
    assert "did you mean ENGINEFARM_PORT?" in ended.stderr.splitlines()[0]
    assert found == ["DATABASE_URL", "BROKER_URL", "STORE_URL=s3://b/x?y:"]
