"""A cache that cannot be used costs a pull one warning, and never the engine."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from enginefarm import sdk
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, InvalidRequest
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.pull import Transfer, pull
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.pulling import FILES, files_in
from tests.servers.server import new_data_dir

NOBODY = 12345  # a user that /etc/passwd does not list


@pytest.fixture
def writable() -> Iterator[Path]:
    """A folder in which every user can write."""
    folder = new_data_dir("node")
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_as_nobody() -> Run:
    """Run a command as a user without an entry in /etc/passwd, with no variables but those of `env`."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: this test was not run; only root can run a program as another user")
    # The interpreter of the tests may be in the home of root, which others cannot read.
    system_python = f"/usr/bin/python3.{sys.version_info.minor}"
    path = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments: str, env: Mapping[str, str], python: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python or interpreter, "-m", "enginefarm.cli", *arguments],
            user=NOBODY, group=NOBODY, extra_groups=[], env=path | dict(env), cwd="/", capture_output=True, text=True,
        )  # fmt: skip

    for interpreter in (sys.executable, system_python):
        with suppress(OSError):
            if run("--version", env={}, python=interpreter).returncode == 0:
                return run
    pytest.skip(f"UNREADABLE: this test was not run; a user without rights cannot run {sys.executable}")


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "ENGINEFARM_CACHE" in line and "--no-cache" in line]


@pytest.mark.parametrize(
    ("variables", "expected_warnings"),
    [
        ({}, 1),
        ({"HOME": "/nonexistent/home"}, 1),
        ({"HOME": "/etc/passwd"}, 1),
        ({"HOME": "/", "XDG_CACHE_HOME": "relative"}, 1),
        ({"ENGINEFARM_CACHE": "/proc/cache"}, 1),
        ({"ENGINEFARM_CACHE": "{writable}/cache"}, 0),
        ({"HOME": "{writable}", "ENGINEFARM_CACHE": "", "XDG_CACHE_HOME": ""}, 0),
    ],
)
def test_an_unknown_user_pulls_without_a_home(
    double: FarmDouble, run_as_nobody: Run, writable: Path, variables: dict[str, str], expected_warnings: int
) -> None:
    engine = double.publish(FILES)
    env = {name: value.format(writable=writable) for name, value in variables.items()}

    result = run_as_nobody("pull", engine.key, str(writable / "engine"), env={"ENGINEFARM_URL": double.url} | env)

    assert result.returncode == 0, result.stderr
    assert files_in(writable / "engine") == FILES
    assert len(warnings(result.stderr)) == expected_warnings, result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_user_without_a_home_runs_every_other_command(double: FarmDouble, run_as_nobody: Run) -> None:
    for command in (["ls"], ["cache", "prune"]):
        result = run_as_nobody(*command, env={"ENGINEFARM_URL": double.url})
        assert (result.returncode, result.stderr) == (0, ""), command


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({"ENGINEFARM_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"ENGINEFARM_CACHE": "~/c", "HOME": "/h"}, "/h/c"),
        ({"ENGINEFARM_CACHE": "", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/enginefarm"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/enginefarm"),
    ],
)
def test_the_cache_is_where_the_variables_say(variables: dict[str, str], root: str) -> None:
    assert str(Cache.of(variables).root) == root


@pytest.mark.parametrize("options", ["ro", "size=64k"])
def test_a_cache_that_is_read_only_or_full_is_not_used(double: FarmDouble, tmp_path: Path, options: str) -> None:
    """The cache is on a file system of its own, in a mount namespace that ends with the command."""
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = f"mount -t tmpfs -o {options} none {cache}"
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    if os.geteuid() != 0 or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("NO MOUNTS: this test was not run; it needs root and the right to mount")
    engine = double.publish(FILES)
    pull_it = f"{sys.executable} -m enginefarm.cli pull {engine.key} {tmp_path}/engine"

    result = subprocess.run(
        [*unshare, f"{mount} && exec {pull_it}"],
        env={**os.environ, "ENGINEFARM_URL": double.url, "ENGINEFARM_CACHE": str(cache)},
        capture_output=True, text=True,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    assert files_in(tmp_path / "engine") == FILES
    assert len(warnings(result.stderr)) == 1, result.stderr


def test_a_read_only_cache_gives_what_it_has(
    client: Farm, double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = double.publish(FILES)
    cache = Cache(tmp_path / "cache")
    pull(client, engine, tmp_path / "one", transfer=Transfer(cache=cache))
    double.store.requests.clear()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "link", refuse)

    pull(client, engine, tmp_path / "two", transfer=Transfer(cache=cache))
    assert files_in(tmp_path / "two") == FILES
    assert double.store.requests == []


@pytest.mark.parametrize(
    "number",
    [errno.ENOSYS, errno.EACCES, errno.EINVAL, errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EIO,
     errno.EROFS, errno.ELOOP, 524],
)  # fmt: skip
def test_whatever_a_hard_link_answers_files_are_copied(
    client: Farm, double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    engine = double.publish(FILES)
    transfer = Transfer(cache=Cache(tmp_path / "cache"))

    pull(client, engine, tmp_path / "one", transfer=transfer)
    double.store.requests.clear()
    pull(client, engine, tmp_path / "two", transfer=transfer)

    assert files_in(tmp_path / "one") == files_in(tmp_path / "two") == FILES
    assert double.store.requests == [], "the second engine is copied from the cache"
    assert (tmp_path / "one" / "rank0.engine").stat().st_nlink == 1


def test_a_file_system_without_locks_is_no_place_for_a_cache(
    client: Farm, double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> Path:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(Cache, "_lock_path", refuse)
    pull(client, double.publish(FILES), tmp_path / "one", transfer=Transfer(cache=Cache(tmp_path / "cache")))
    assert files_in(tmp_path / "one") == FILES
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_file_of_the_cache_that_cannot_be_read_is_fetched(
    client: Farm, double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = double.publish(FILES)
    transfer = Transfer(cache=Cache(tmp_path / "cache"), verify_cached=True)
    pull(client, engine, tmp_path / "one", transfer=transfer)

    def fail(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("enginefarm.contract.digest.of_file", fail)
    pull(client, engine, tmp_path / "two", transfer=transfer)
    assert files_in(tmp_path / "two") == FILES
    assert "Input/output error" in caplog.text


class TestSdk:
    def test_an_unusable_cache_costs_a_warning(
        self, double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("ENGINEFARM_CACHE", "/proc/cache")
        engine = double.publish(FILES)
        assert files_in(sdk.pull(engine.key, tmp_path / "here", farm=Farm(double.url))) == FILES
        (warning,) = warnings(caplog.text)
        assert "use_cache=False" in warning

    def test_a_pull_without_a_cache_leaves_it_alone(
        self, double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ENGINEFARM_CACHE", str(tmp_path / "cache"))
        engine = double.publish(FILES)
        sdk.pull(engine.key, tmp_path / "here", farm=Farm(double.url), use_cache=False)
        assert files_in(tmp_path / "here") == FILES
        assert not (tmp_path / "cache").exists()

    def test_a_pull_without_a_cache_needs_a_destination(self, double: FarmDouble) -> None:
        with pytest.raises(InvalidRequest, match="destination"):
            sdk.pull("abcdef", farm=Farm(double.url), use_cache=False)

    def test_an_engine_that_has_no_place_is_an_error_with_a_remedy(
        self, double: FarmDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ENGINEFARM_CACHE", "/proc/cache")
        engine = double.publish(FILES)
        with pytest.raises(CallerError, match=r"cannot write the engine to /proc/cache.*ENGINEFARM_CACHE"):
            sdk.pull(engine.key, farm=Farm(double.url))
