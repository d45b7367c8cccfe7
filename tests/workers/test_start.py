"""A worker that cannot work ends at its start, with one line and an exit code."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.exit_codes import ExitCode
from models.settings import Settings
from tests.migrated import set_up_new_farm
from workers import __main__ as worker
from workers.sandbox.isolation import Isolation

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of a worker whose catalogue and store are ready."""
    environment = {
        "ENGINEFARM_DATABASE_URL": f"sqlite:///{tmp_path}/catalogue.db",
        "ENGINEFARM_STORE_URL": f"file://{tmp_path}/store",
        "ENGINEFARM_BROKER_URL": "redis://127.0.0.1:1/0",
        "ENGINEFARM_SCRATCH": f"{tmp_path}/scratch",
        "ENGINEFARM_WORKER_NAME": "one",
        "ENGINEFARM_SANDBOX": "off",
    }
    set_up_new_farm(Settings.from_environment(environment))
    return environment


def failure(
    variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Start a worker in this process, which must end; returns its exit code and what it printed."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # It replaces the process by a new one.
    monkeypatch.setattr(worker, "hide", lambda: None)
    monkeypatch.setattr(worker, "serve", lambda *_: pytest.fail("the worker serves"))
    with pytest.raises(SystemExit) as ended:
        worker.main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "code", "line"),
    [
        (
            "SCRATCH",
            "{folder}/file/scratch",
            78,
            "ENGINEFARM_SCRATCH={folder}/file/scratch: Not a directory: set a folder",
        ),
        ("SCRATCH", "{folder}/file", 78, "ENGINEFARM_SCRATCH={folder}/file: File exists: set a folder"),
        ("SCRATCH", "/sys/enginefarm", 78, "ENGINEFARM_SCRATCH=/sys/enginefarm: "),
        (
            "STORE_URL",
            "file://{folder}/none",
            69,
            "the store's folder {folder}/none (ENGINEFARM_STORE_URL): No such file",
        ),
        ("STORE_URL", "file:///sys", 69, "the store's folder /sys (ENGINEFARM_STORE_URL): "),
        ("STORE_URL", "s3://bucket", 78, "ENGINEFARM_STORE_URL is an S3 bucket, so set ENGINEFARM_S3_ENDPOINT too"),
        ("DATABASE_URL", "sqlite:///{folder}/empty.db", 77, "the catalogue is at version none, this program needs "),
        ("DATABASE_URL", "postgresql://farm:5eCr3t@127.0.0.1:1/farm", 69, ""),
        ("DATABASE_URL", "mysql://farm:5eCr3t@127.0.0.1/farm", 78, "ENGINEFARM_DATABASE_URL begins with 'mysql'"),
        ("STAGE_SECOND", "60", 78, "unknown setting ENGINEFARM_STAGE_SECOND: did you mean ENGINEFARM_STAGE_SECONDS?"),
    ],
)
def test_a_worker_ends_with_one_line(
    variables: dict[str, str], name: str, value: str, code: int, line: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    wrong = {f"ENGINEFARM_{name}": value.format(folder=tmp_path)}
    exit_code, printed = failure(variables | wrong, monkeypatch, capsys)
    assert exit_code == code
    assert ("\n" + printed).rpartition("\nenginefarm worker: ")[2].startswith(line.format(folder=tmp_path))
    assert printed.count("enginefarm worker: ") == 1
    assert "Traceback" not in printed
    assert "5eCr3t" not in printed


def test_a_worker_without_toolchains_says_what_to_install(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "capabilities", list)
    with pytest.raises(ValueError, match=r"no toolchain can run here: install one"):
        worker.identify(Settings.from_environment(variables), Isolation())


def test_a_second_worker_of_one_name_ends_with_a_line(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scratch").mkdir()
    with (tmp_path / "scratch" / ".one.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, printed = failure(variables, monkeypatch, capsys)
    assert code == ExitCode.UNAVAILABLE
    assert f"enginefarm worker: another worker uses the folder {tmp_path}/scratch/one: give this one a name" in printed
