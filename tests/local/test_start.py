"""A farm on one machine that cannot start: one line, and no part is left."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from enginefarm.transfer.file_lock import locked_if_free
from local import __main__ as program
from local.process import Process, StartFailedError
from models.exit_codes import ExitCode


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("STATE", str(folder))
    monkeypatch.setenv("PORT", "")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return folder


def failure(capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        program.main()
    text = capsys.readouterr().err
    assert text.startswith("the farm did not start: ")
    return ended.value.code, text.removeprefix("the farm did not start: ")


@pytest.mark.parametrize("port", ["80a", "-1", "70000", "8000.0", "tcp://10.96.0.12:8000"])
def test_a_port_that_is_none_is_refused(
    port: str, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", port)
    code, line = failure(capsys)
    assert (code, line) == (
        ExitCode.SETTINGS,
        f"PORT={port}: expected a number from 0 to 65535; 0 picks a free port\n",
    )
    assert not state.exists()


def test_a_taken_port_is_named(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))
        assert failure(capsys) == (
            ExitCode.UNAVAILABLE, f"port {port} of 127.0.0.1 is taken: choose another with PORT=…\n"
        )  # fmt: skip


@pytest.mark.parametrize("folder", ["/sys/farm", "{file}", "{file}/farm"])
def test_a_state_folder_that_cannot_be_written_is_named(
    folder: str, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    folder = folder.format(file=tmp_path / "file")
    monkeypatch.setenv("STATE", folder)
    code, line = failure(capsys)
    assert code == ExitCode.UNAVAILABLE
    assert line.startswith(f"STATE={folder}: {folder}: ")
    assert line.endswith(": set STATE to a folder on a local disk that belongs to this user\n")


@pytest.mark.parametrize("character", ["#", "?", "%", ":", "'", '"', "\\", "\n", "\u202e", "\udce9"])
def test_a_state_folder_with_a_special_character_is_refused(
    character: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE", str(tmp_path / f"a{character}b"))
    code, line = failure(capsys)
    assert code == ExitCode.SETTINGS
    assert line.endswith(f": the path has the character {character!a}: choose a folder with a plain path\n")
    assert not list(tmp_path.iterdir())


def test_a_state_folder_that_another_farm_uses_is_refused(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.mkdir()
    with locked_if_free(state / "farm"):
        code, line = failure(capsys)
    assert code == ExitCode.UNAVAILABLE
    assert line == f"another farm runs with STATE={state}: stop it, or choose another folder with STATE=…\n"


def test_a_wrong_setting_of_the_farm_is_named(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGINEFARM_SANDBOX", "maybe")
    code, line = failure(capsys)
    assert code == ExitCode.SETTINGS
    assert line.startswith("ENGINEFARM_SANDBOX=maybe: expected ")


def test_a_part_that_refuses_its_start_is_quoted_without_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("enginefarm api: an old reason\n")
    code = "import sys; print('INFO a line'); print('enginefarm api: the reason'); sys.exit(78)"
    process = Process("api", [sys.executable, "-c", code], {}, log)
    with pytest.raises(StartFailedError) as caught:
        process.wait_until(lambda: False, seconds=30)
    assert str(caught.value) == f"enginefarm api: the reason\n(complete log: {log})"


def test_damaged_state_is_named(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.mkdir()
    (state / "catalogue.db").write_bytes(b"no database" * 1000)
    code, line = failure(capsys)
    assert code == ExitCode.UNAVAILABLE
    assert line.count("\n") == 1
    assert "database" in line
