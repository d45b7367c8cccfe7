"""The folder of the next attempt, with a supervisor in its sandbox that waits for the first program.

A thread prepares both while the worker is idle or another stage runs, because namespaces, mounts and an interpreter
take longer than all else between a message and the start of a program. Nothing of a stage decides what is prepared: the
view of the latest stage is only the guess for the next one, and a supervisor is used only if a sandbox that is made now
would be the same. Otherwise the stage starts another one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.loops import Loops
from workers.programs import child
from workers.programs.child import ProcessLimits
from workers.sandbox.isolation import Isolation
from workers.sandbox.launched import LaunchedSupervisor
from workers.sandbox.mount_view import StageView
from workers.scratch.workspace import Workspace

# After which another sandbox is made: this one does not see what is mounted on the machine meanwhile.
_RENEWAL_SECONDS = 60.0
_PAUSE_SECONDS = 0.03  # for a program that was just started to begin, before the next sandbox takes a share of the CPU


class Standby:
    """Prepares the workspace of the next attempt, in a thread of its own between `start` and `close`.

    Without a complete sandbox it prepares nothing: programs could then write into the folder of the next attempt.

    Args:
        root: for the folders of attempts.
        view: what the first stage probably sees.
    """

    def __init__(self, root: Path, isolation: Isolation, limits: ProcessLimits, view: StageView, loops: Loops) -> None:
        self._root = root
        self._isolation = isolation
        self._limits = limits
        self._view = view
        self._next: Workspace | None = None
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._wanted.set()
        # Supervisors end with this thread, so it waits for its next round inside of `prepare` and ends last.
        self._thread = loops.thread("the preparation of the next sandbox", self.prepare, every_seconds=0.0)
        self._is_closing = False

    def start(self) -> None:
        if self._isolation.complete:
            self._thread.start()

    def close(self) -> None:
        """End the thread, and remove what is prepared. No stage may run any more."""
        self._is_closing = True
        self._thread.stop()
        self._wanted.set()
        self._thread.join()
        self._replace(None)

    def prepare(self) -> None:
        """Wait until a workspace is wanted, or has to be made anew; then make it.

        Raises:
            OSError: as `LaunchedSupervisor`; the next stage starts its own supervisor then.
        """
        self._wanted.wait(_RENEWAL_SECONDS)
        if self._is_closing:
            return
        self._wanted.clear()
        time.sleep(_PAUSE_SECONDS)
        workspace = Workspace.make(self._root)
        try:
            paths = workspace.paths(self._view)
            workspace.supervisor = child.launch(self._isolation, paths, self._limits)
        finally:
            self._replace(workspace)

    @property
    def root(self) -> Path:
        """The scratch folder of this worker process, which it empties at its start."""
        return self._root

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """The folder of one attempt, prepared or new; it is removed at the end.

        Raises:
            OSError: the folder cannot be made.
        """
        with self._lock:
            workspace, self._next = self._next, None
        if workspace is not None and not workspace.is_complete():
            # Whoever cleans disks has removed it: the attempt must not fail for that.
            workspace.remove()
            workspace = None
        if workspace is None:
            workspace = Workspace.make(self._root)
        try:
            yield workspace
        finally:
            workspace.remove()
            if not workspace.has_run:
                self._wanted.set()

    def take(self, workspace: Workspace, view: StageView) -> LaunchedSupervisor | None:
        """The supervisor for the next program of an attempt; None if none is prepared that fits.

        Only the first program of an attempt gets one: a later one might be shown what an earlier one chose.
        """
        if workspace.has_run:
            return None
        workspace.has_run = True
        self._view = view
        self._wanted.set()
        supervisor, workspace.supervisor = workspace.supervisor, None
        if supervisor is None:
            return None
        if supervisor.paths == workspace.paths(view) and supervisor.is_current():
            return supervisor
        supervisor.close()
        return None

    def _replace(self, workspace: Workspace | None) -> None:
        with self._lock:
            previous, self._next = self._next, workspace
        if previous is not None:
            previous.remove()
