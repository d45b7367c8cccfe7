"""A stage finds its folder and its sandbox prepared, and a sandbox that would not be made so now is not used."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from models.loops import Loops
from tests.workers.programs.test_child import LIMITS, alive, wait_until_gone
from tests.workers.sandbox.real import sandbox
from toolchains.toolchain import Command
from workers.programs import child
from workers.programs.child import Ended
from workers.programs.standby import Standby
from workers.sandbox import seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StageView
from workers.scratch.workspace import Workspace

VIEW = StageView()


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    standby = Standby(tmp_path / "scratch", sandbox(), LIMITS, VIEW, Loops())
    standby.start()
    with closing(standby):
        yield standby


def prepared(standby: Standby) -> Workspace:
    """The workspace that the standby has prepared, once its supervisor is ready."""
    deadline = time.monotonic() + 10
    while (workspace := standby._next) is None or workspace.supervisor is None or not workspace.supervisor.is_current():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return workspace


def run(standby: Standby, workspace: Workspace, code: str, view: StageView = VIEW) -> tuple[Ended, str]:
    output = bytearray()
    ended = child.run(
        Command((sys.executable, "-I", "-c", code), {"OWN": "command's"}),
        paths=workspace.paths(view),
        limits=LIMITS,
        stop=threading.Event(),
        on_output=output.extend,
        isolation=standby._isolation,
        prepared=standby.take(workspace, view),
    )
    return ended, output.decode()


def test_a_stage_runs_in_the_prepared_sandbox_and_the_next_one_is_prepared_meanwhile(standby: Standby) -> None:
    first = prepared(standby)
    supervisor = first.supervisor
    with standby.workspace() as workspace:
        assert workspace is first
        (workspace.directories.source / "fetched").write_text("later than the sandbox")
        code = (
            "import os; from pathlib import Path; print(os.getppid(), os.environ['OWN'], Path.cwd().name);"
            f"print(Path({str(workspace.directories.source)!r}, 'fetched').read_text());"
            f"Path({str(workspace.directories.output)!r}, 'engine').touch()"
        )
        ended, output = run(standby, workspace, code)
        assert ended.status == 0, output
        assert output == "1 command's scratch\nlater than the sandbox\n"
        assert (workspace.directories.output / "engine").exists()
        assert workspace.supervisor is None
        assert supervisor is not None
        assert supervisor._is_dead
        assert prepared(standby).folder != workspace.folder
        # Not for a second program: the first one may have put links into the folder.
        assert standby.take(workspace, VIEW) is None
    assert not first.folder.exists()


def test_another_view_and_a_replaced_file_need_another_sandbox(standby: Standby, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_text("old")
    view = StageView((shown,))
    prepared(standby)
    with standby.workspace() as workspace:
        assert run(standby, workspace, f"print(open({str(shown)!r}).read())", view)[1] == "old\n"
    # The latest stage is the guess for the next one.
    assert prepared(standby).paths(view) == standby._next.supervisor.paths  # type: ignore[union-attr]
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(shown)
    with standby.workspace() as workspace:
        assert run(standby, workspace, f"print(open({str(shown)!r}).read())", view)[1] == "new\n"


def test_a_file_to_be_hidden_that_appears_later_is_hidden(tmp_path: Path) -> None:
    visible = tmp_path / "visible"
    visible.mkdir()
    key = visible / "key.pem"
    isolation = Isolation(bwrap=sandbox().bwrap, machine=seccomp.machine(), hidden=(key,))
    view = StageView((visible,))
    standby = Standby(tmp_path / "scratch", isolation, LIMITS, view, Loops())
    standby.start()
    with closing(standby):
        prepared(standby)
        key.write_text("secret")
        with standby.workspace() as workspace:
            ended, output = run(standby, workspace, f"print(open({str(key)!r}).read())", view)
            assert ended.status == 1
            assert "secret" not in output


def test_a_prepared_supervisor_that_was_killed_is_replaced(standby: Standby) -> None:
    workspace = prepared(standby)
    for pid in alive(workspace.folder):
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(workspace.folder)
    with standby.workspace() as taken:
        assert taken is workspace
        assert run(standby, taken, "print('ran')")[1] == "ran\n"


def test_a_prepared_folder_that_was_cleaned_away_is_replaced(standby: Standby) -> None:
    workspace = prepared(standby)
    workspace.directories.output.rmdir()
    with standby.workspace() as other:
        assert not workspace.folder.exists()
        assert run(standby, other, "print('ran')")[1] == "ran\n"
    wait_until_gone(workspace.folder)


def test_what_no_stage_needed_ends_with_the_standby(standby: Standby) -> None:
    workspace = prepared(standby)
    assert alive(workspace.folder)
    # A supervisor that waits has no secret in its environment.
    assert all("HF_TOKEN" not in psutil.Process(pid).environ() for pid in alive(workspace.folder))
    standby.close()
    assert not workspace.folder.exists()
    wait_until_gone(workspace.folder)


def test_without_a_complete_sandbox_nothing_is_prepared(tmp_path: Path) -> None:
    standby = Standby(tmp_path / "scratch", Isolation(machine=seccomp.machine()), LIMITS, VIEW, Loops())
    standby.start()
    with closing(standby), standby.workspace() as workspace:
        assert run(standby, workspace, "print('ran')")[1] == "ran\n"
        assert list((tmp_path / "scratch").iterdir()) == [workspace.folder]
