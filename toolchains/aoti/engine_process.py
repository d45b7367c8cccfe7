"""Run an engine in a child process that reads and writes JSON lines, and kill it with all processes that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from enginefarm.contract.errors import EnginefarmError
from toolchains.toolchain import PASSED_ON

_SERVE_PROGRAM = Path(__file__).parent / "programs" / "serve.py"
_ERROR_LINES = 20  # last lines of the child's stderr, for the error message
_EXIT_SECONDS = 2.0  # time for a child to exit by itself, so that its exit status is known


class EngineStopped(EnginefarmError):
    """The engine's process ended, or does not answer any more."""

    code = "engine_stopped"
    title = "The engine stopped"


class EngineProcess:
    """One child process. Its answers come in the order of the requests."""

    def __init__(self, directory: Path, patience: float) -> None:
        """Start the engine of a directory.

        `patience`: seconds without an answer after which the child is killed.
        """
        self.patience = patience
        # The engine's runtime unpacks the package into a temporary folder, which a killed child leaves behind.
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-")
        environment = {name: os.environ[name] for name in (*PASSED_ON, "OMP_NUM_THREADS") if name in os.environ}
        environment |= {"HOME": self._scratch.name, "TMPDIR": self._scratch.name}
        self._child = subprocess.Popen(
            # -P keeps the program's own folder off the import path: a file there must not shadow a library.
            [sys.executable, "-P", str(_SERVE_PROGRAM), str(directory.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._scratch.name,
            env=environment,
            # A group of its own: `close` can kill all of it, and Ctrl-C at a terminal does not reach it.
            process_group=0,
            text=True,
            encoding="utf-8",
            # A crash may print bytes that are not UTF-8. They must not end the threads that read.
            errors="replace",
        )
        self._answers: SimpleQueue[str | None] = SimpleQueue()  # None: the child closed its stdout
        self._error_lines: deque[str] = deque(maxlen=_ERROR_LINES)
        # Threads read both pipes at all times: a child that blocks on a full pipe cannot read requests.
        self._readers = [
            Thread(target=self._read_answers, daemon=True),
            Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def send(self, document: Mapping[str, Any]) -> None:
        """Send a request.

        Raises:
            EngineStopped: the child ended.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(document) + "\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: `close` closed the pipe
            raise self._stopped("ended") from error

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            EngineStopped: the child ended or gave no answer in time; the message has its last lines of stderr.
        """
        try:
            line = self._answers.get(timeout=self.patience)
        except Empty:
            raise self._stopped(f"gave no answer for {self.patience:g} s") from None
        if line is None:
            raise self._stopped("ended")
        document: dict[str, Any] = json.loads(line)
        return document

    @property
    def pid(self) -> int:
        """The child's process id, which is that of its process group too."""
        return self._child.pid

    def close(self) -> None:
        """Kill the child and all processes that it started. May be called again."""
        # Once waited for, a child has given its process id back: the signal could hit another process.
        if self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        # With all writers dead the pipes end, and so do the threads that read them.
        for reader in self._readers:
            reader.join()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            with suppress(BrokenPipeError):  # a request that is still in the buffer has no reader
                if pipe is not None:
                    pipe.close()
        self._scratch.cleanup()

    def _stopped(self, event: str) -> EngineStopped:
        """Kill the child; an error that names its exit status and its last lines of stderr."""
        # A child that dumps its core takes a while to exit.
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_EXIT_SECONDS)
        self.close()
        last_lines = " | ".join(line for line in self._error_lines if line.strip()) or "none"
        return EngineStopped(
            f"the engine's process {event} (exit {self._child.returncode}); its last lines of stderr: {last_lines}"
        )

    def _read_answers(self) -> None:
        for line in self._child.stdout or ():
            self._answers.put(line)
        self._answers.put(None)

    def _read_errors(self) -> None:
        for line in self._child.stderr or ():
            self._error_lines.append(line.rstrip())
