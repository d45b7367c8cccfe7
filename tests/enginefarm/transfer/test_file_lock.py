from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginefarm.transfer.file_lock import locked, locked_if_free


def test_one_thread_at_a_time_has_the_lock(tmp_path: Path) -> None:
    inside, most, waits = 0, 0, 0
    counting = threading.Lock()

    def waited() -> None:
        nonlocal waits
        waits += 1

    def enter(_: int) -> None:
        nonlocal inside, most
        with locked(tmp_path / "engine", waited):
            with counting:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.001)
            with counting:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(200)))

    assert (inside, most) == (0, 1)
    assert waits > 0
    assert list(tmp_path.iterdir()) == []


def test_a_failure_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "engine", pytest.fail):
        _ = 1 / 0

    with locked(tmp_path / "engine", lambda: pytest.fail("nobody has it")):
        assert [path.name for path in tmp_path.iterdir()] == [".engine.lock"]


def test_a_lock_file_is_never_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".engine.lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "engine", lambda: None):
        pass

    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_takes_no_files_is_an_error_and_not_waited_for() -> None:
    path = Path("/proc/self/fd/engine")
    with pytest.raises(FileNotFoundError), locked(path, lambda: None):
        pass
    with pytest.raises(FileNotFoundError), locked_if_free(path):
        pass
